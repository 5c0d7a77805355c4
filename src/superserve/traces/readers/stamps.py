"""Lists of arrival instants: plain ones, Azure LLM 2023, Mooncake."""

from pathlib import Path
from typing import Final

import numpy as np

from superserve.clock import NS_PER_MS, NS_PER_S
from superserve.traces.readers.table import read_column
from superserve.traces.trace import Trace

#: Columns that are looked for, in order, with their unit.
_UNITS: Final = {"arrival_s": NS_PER_S, "arrival_ms": NS_PER_MS, "arrival_ns": 1}


def read_stamps(source: Path, name: str, rng: np.random.Generator, grid_s: float | None = None) -> Trace:
    """A CSV file with a column ``arrival_s``, ``arrival_ms`` or ``arrival_ns``, in any order of rows.

    The trace starts at the first stamp.

    Args:
        source: the file.
        name: of the trace.
        rng: places arrivals inside their grid step.
        grid_s: what the stamps were rounded down to, in seconds: each is spread uniformly over its step. Mooncake's
            stand on a grid of 3 s. None takes them as exact.

    Raises:
        TraceError: for a missing column or a cell that is no number.
    """
    column, values = read_column(source, *_UNITS)
    at_ns = values * _UNITS[column]
    if grid_s:
        at_ns += rng.random(len(at_ns)) * grid_s * NS_PER_S
    at_ns.sort()
    return Trace(name, np.rint(at_ns - at_ns[0]).astype(np.int64))
