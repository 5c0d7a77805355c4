"""The model that is served: what it computes can be checked by whoever asked."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from superserve.model_folder import (
    FRONT_FILE,
    NORMS_FILE,
    WEIGHTS_FILE,
    ModelConfig,
    TensorSpec,
    write_json,
)

#: Bits of a tag: whoever runs a batch with such a row dies, or raises.
POISON: Final = 1 << 31
RAISES: Final = 1 << 30

Arrays = Sequence[np.ndarray[Any, Any]]

#: Three subnets, the fastest in 2 ms; a second model is twice as fast.
LATENCIES_MS: Final = [[2.0, 3.0, 5.0, 8.0], [4.0, 6.0, 10.0, 16.0], [8.0, 12.0, 20.0, 32.0]]
BATCHES: Final = (1, 2, 4, 8)
NAMES: Final = ("one", "two", "three")


def compute(inputs: Arrays, subnet: int) -> list[np.ndarray[Any, Any]]:
    """Outputs of a batch: the tags mixed, and for each row its number and the subnet."""
    tags, rows = inputs
    mixed = tags * np.uint32(2_654_435_761) + rows
    return [mixed, np.stack([rows.astype(np.uint16), np.full(len(rows), subnet, np.uint16)], axis=1)]


def inputs_of(tag: int, rows: int) -> list[np.ndarray[Any, Any]]:
    """What a request with a tag asks about."""
    return [np.full(rows, tag, np.uint32), np.arange(rows, dtype=np.uint32)]


def tags_of(tags: np.ndarray[Any, Any]) -> list[int]:
    """The tags of the requests of a batch, in order."""
    found: list[int] = tags.tolist()
    return list(dict.fromkeys(found))


def write_model(folder: Path, name: str) -> Path:
    """A model folder with nothing but its tensors."""
    folder.mkdir(parents=True)
    config = ModelConfig(
        format=1,
        name=name,
        family="none",
        architecture={},
        task="simulation",
        dataset="none",
        labels=(),
        inputs=(TensorSpec("tag", "UINT32", (-1,)), TensorSpec("row", "UINT32", (-1,))),
        outputs=(TensorSpec("mixed", "UINT32", (-1,)), TensorSpec("run", "UINT16", (-1, 2))),
        preprocessing={},
        max_batch_size=BATCHES[-1],
    )
    write_json(folder / "config.json", config)
    for file in (FRONT_FILE, WEIGHTS_FILE, NORMS_FILE):
        (folder / file).touch()
    return folder
