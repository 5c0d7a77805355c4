"""The file with the one copy of a model's weights that all processes of a machine map. Nothing here imports torch."""

from pathlib import Path

from superserve.model_folder import ModelFolder, cache_folder


def reduced_path(folder: ModelFolder, dtype: str) -> Path:
    """Where a model's weights in a smaller dtype are kept."""
    return cache_folder() / "weights" / f"{folder.config.name}-{folder.model_hash[:16]}" / f"{dtype}.safetensors"


def weights_nbytes(folder: ModelFolder, dtype: str) -> int:
    """Bytes of the one copy for who computes in a dtype: of the model's own file, until it is there in that one."""
    reduced = reduced_path(folder, dtype)
    return (reduced if dtype != "float32" and reduced.is_file() else folder.weights_path).stat().st_size
