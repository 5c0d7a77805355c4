"""The parts of the benchmark, each of which runs in a process of its own."""

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import torch

from subnetact import graphs, hundreds, latency, memory, packed, startup, switching
from subnetact.families import Case
from subnetact.progress import Progress

PARTS: Final[dict[str, Callable[..., dict[str, Any]]]] = {
    "latency": latency.measure,
    "packed": packed.measure,
    "memory": memory.measure,
    "switch": switching.measure,
    "start": startup.measure,
    "graphs": graphs.measure,
}
HUNDREDS: Final = "hundreds"


def apart(part: str, family: Case | None, scratch: Path, *, quick: bool) -> dict[str, Any]:
    """Run a part in a process of its own: it pins itself, and its memory is gone with it."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_run, part, family, scratch, quick=quick).result()


def _run(part: str, family: Case | None, scratch: Path, *, quick: bool) -> dict[str, Any]:
    torch.set_num_threads(1)
    # What is compiled or converted for the benchmark is not left in the user's own cache.
    os.environ["SUPERSERVE_CACHE"] = str(scratch / "cache")
    if family is None:
        return hundreds.measure(scratch, quick=quick, progress=Progress())
    return PARTS[part](family, scratch, quick=quick, progress=Progress())
