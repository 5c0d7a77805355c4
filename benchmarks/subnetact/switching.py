"""Changing to another subnet: by actuation, by loading an extracted one, by building a runtime's session."""

import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from subnetact.families import Case, folder_of
from subnetact.memory import six_points, write_zoo
from subnetact.progress import Progress
from subnetact.static import empty_subnet, export, load_private
from subnetact.timing import Spread, one_thread_on_one_core, timed_us
from superserve.model_folder import ModelFolder
from superserve.supernet.actuator import Actuator
from superserve.supernet.hub import load_supernet
from superserve.supernet.network import Supernet
from superserve.supernet.runtimes.export import static_subnet
from superserve.supernet.runtimes.installed import installed
from superserve.supernet.runtimes.sessions import open_session

_ACTUATIONS: Final = 4000
_LOADS: Final = 7


def measure(one: Case, scratch: Path, *, quick: bool, progress: Progress) -> dict[str, Any]:
    """Microseconds by way of switching and subnet."""
    one_thread_on_one_core()
    folder = six_points(folder_of(one, scratch), scratch)
    zoo = write_zoo(folder, scratch / f"{one.name}-zoo")
    supernet = load_supernet(folder)
    progress.step(f"switching, {one.name}, actuation")
    rows = [{"way": "actuation", "subnet": "any", **actuation(supernet).json()}]
    last = len(folder.front.subnets) - 1
    for index in (0, last):
        progress.step(f"switching, {one.name}, subnet {folder.front.subnets[index].id}")
        ways = _ways(folder, supernet, index, zoo, scratch)
        rounds = 2 if quick else _LOADS
        for name, spread in _in_turns(ways, rounds).items():
            rows.append({"way": name, "subnet": folder.front.subnets[index].id, **spread.json()})
    return {"rows": rows}


def actuation(supernet: Supernet, count: int = _ACTUATIONS) -> Spread:
    """Of a bound subnet, in random order: each another one than the last."""
    actuator = Actuator.of_front(supernet)
    subnets = len(supernet.front.subnets)
    steps = np.random.default_rng(0).integers(1, subnets, count) if subnets > 1 else np.zeros(count, int)
    order = (np.cumsum(steps) % subnets).tolist()
    return Spread.of([timed_us(partial(actuator.actuate, index)) for index in order])


def _ways(
    folder: ModelFolder, supernet: Supernet, index: int, zoo: Path, scratch: Path
) -> dict[str, tuple[Callable[[], object], bool]]:
    """What switches to a subnet, and whether its file is to be out of the page cache before."""
    file = zoo / f"{index}.safetensors"
    # Its modules are built ahead: a server that reloads would keep them, and the comparison is to be fair to it.
    empty = empty_subnet(folder, index)
    ways: dict[str, tuple[Callable[[], object], bool]] = {
        "load extracted, warm cache": (lambda: load_private(empty, file), False),
        "load extracted, cold cache": (lambda: load_private(empty, file), True),
    }
    runtimes = installed("float32")
    if runtimes:
        export(static_subnet(supernet, index), supernet.config, scratch / "switch")
    for runtime in runtimes:
        ways[f"{runtime} session"] = (partial(open_session, runtime, "float32", scratch / "switch"), False)
    return ways


def _in_turns(ways: dict[str, tuple[Callable[[], object], bool]], rounds: int) -> dict[str, Spread]:
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, (work, cold) in ways.items():
            if cold:
                evict(path for path in _files(work))
            took_us = timed_us(work)
            if number:
                times[name].append(took_us)
    return {name: Spread.of(values) for name, values in times.items()}


def _files(work: Callable[[], object]) -> Iterable[Path]:
    """The files that a way of switching reads: the paths in its closure."""
    cells = getattr(work, "__closure__", None) or ()
    return [cell.cell_contents for cell in cells if isinstance(cell.cell_contents, Path)]


def evict(paths: Iterable[Path]) -> None:
    """Ask the kernel to drop files from its page cache."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
