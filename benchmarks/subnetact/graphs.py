"""CUDA graphs beside eager torch, where there is a GPU."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import torch

import gpu_graphs
from subnetact.families import Case, folder_of
from subnetact.progress import Progress
from subnetact.targets import measured

#: Samples of a cell, and seconds for a rate.
_ROUNDS: Final = 200
_SECONDS: Final = 0.3
_QUICK: Final = 10


def measure(one: Case, scratch: Path, *, quick: bool, progress: Progress) -> dict[str, Any]:
    """What ``gpu_graphs.py`` measures; nothing on a machine without a GPU."""
    progress.step(f"graphs, {one.name}")
    if not torch.cuda.is_available():
        return {}
    share = 1 / _QUICK if quick else 1.0
    return gpu_graphs.measure(folder_of(one, scratch), round(_ROUNDS * share), _SECONDS * share)


def lines(found: dict[str, Any]) -> Iterator[str]:
    """The section of the page."""
    any_measured = False
    for one, part in measured(found):
        if part:
            any_measured = True
            yield f"### {one.title}\n"
            yield from gpu_graphs.figures(part)
            yield ""
    if not any_measured:
        yield "Not measured: this machine has no GPU that torch can use."
