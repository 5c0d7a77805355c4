"""The engines that run subnets inside the supernet, by the names that tables have for them."""

from subnetact.progress import Progress
from superserve.engine import Engine
from superserve.model_folder import ModelFolder
from superserve.supernet.engine import EagerEngine


def engines(folder: ModelFolder, progress: Progress) -> dict[str, Engine]:
    """Every engine that this machine has, the one that always works first."""
    progress.say(f"loading {folder.config.name}")
    return {"actuated eager fp32": EagerEngine.load(folder)}
