"""Which file 8-bit integers are fitted to: what packs in them, and counts of what those get right, are kept by.

Nothing here imports torch.
"""

from pathlib import Path

from superserve.engine import INT8
from superserve.model_folder import TEST_FILE, ModelFolder, cache_folder
from superserve.supernet.builds import sha256


def kept_path(folder: ModelFolder) -> Path:
    """Where examples of a model are kept."""
    return cache_folder() / "examples" / f"{folder.config.name}-{folder.model_hash[:16]}.npz"


def fitting_hash(folder: ModelFolder, dtype: str) -> str:
    """What tells packs of a model from those that were fitted to other examples; empty if nothing is fitted to any."""
    if dtype != INT8:
        return ""
    source = next((path for path in (kept_path(folder), folder.path / TEST_FILE) if path.is_file()), None)
    return "" if source is None else sha256(source)
