"""A model folder with some of another one's subnets."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from superserve.model_folder import ModelFolder
from superserve.supernet.hub import load_supernet, save_supernet


def with_subnets(folder: ModelFolder, indices: Sequence[int], path: Path) -> ModelFolder:
    """The folder with the subnets of these indices of its front."""
    if path.exists():
        return ModelFolder(path)
    supernet = load_supernet(folder)
    records = tuple(supernet.front.subnets[index] for index in indices)
    statistics = {record.id: supernet.statistics[record.id] for record in records}
    front = msgspec.structs.replace(supernet.front, subnets=records)
    return save_supernet(replace(supernet, front=front, statistics=statistics), path)
