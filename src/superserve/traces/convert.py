"""From anybody's trace file to a canonical trace."""

from dataclasses import replace
from pathlib import Path
from typing import Final, Literal, get_args

import numpy as np

from superserve.errors import TraceError
from superserve.traces.readers.azure_functions import read_azure_functions
from superserve.traces.readers.counts import read_counts
from superserve.traces.readers.segments import load_trace
from superserve.traces.readers.stamps import read_stamps
from superserve.traces.squeeze import Counts, draw, scale
from superserve.traces.trace import Trace

TraceFormat = Literal["azure-functions", "azure-llm", "counts", "timestamps", "mooncake", "access-log"]
FORMATS: Final[tuple[TraceFormat, ...]] = get_args(TraceFormat)

#: Count files are taken to be per minute unless the caller says otherwise.
_MINUTE_S: Final = 60.0
_MOONCAKE_GRID_S: Final = 3.0


def convert(
    source: Path,
    format: str,  # noqa: A002  (the option's name)
    *,
    squeeze_s: float | None = None,
    rate: float | None = None,
    seed: int = 0,
    bin_seconds: float | None = None,
    column: str | None = None,
) -> Trace:
    """Read a trace, and scale it to a duration and a rate with its shape preserved.

    Args:
        source: the file, or the folder that some formats take.
        format: one of `FORMATS`.
        squeeze_s: duration of the result in seconds; None keeps the source's.
        rate: mean requests per second of the result; None keeps the source's numbers of requests.
        seed: of the draws of numbers and places of arrivals.
        bin_seconds: width of a bin of ``counts`` (60 by default); what ``timestamps`` were rounded down to, so that
            they are spread inside it (exact by default; 3 s for ``mooncake``).
        column: which column to count, where a file has several.

    Raises:
        TraceError: if it cannot be read or scaled; the message names file, line, column and the fix.
    """
    for option, value in (("squeeze_s", squeeze_s), ("rate", rate), ("bin_seconds", bin_seconds)):
        if value is not None and not 0 < value < np.inf:
            raise TraceError(f"{option} = {value}: must be a number above 0")
    rng = np.random.default_rng(seed)
    name = _name(source, squeeze_s, rate)
    match format:
        case "azure-functions":
            return _drawn(name, read_azure_functions(source, column), squeeze_s, rate, rng)
        case "counts":
            return _drawn(name, read_counts(source, bin_seconds or _MINUTE_S, column), squeeze_s, rate, rng)
        case "azure-llm" | "timestamps" | "mooncake":
            grid_s = bin_seconds or (_MOONCAKE_GRID_S if format == "mooncake" else None)
            return scale(read_stamps(source, name, rng, grid_s), squeeze_s=squeeze_s, rate=rate, rng=rng)
        case "access-log":
            recorded = load_trace(source)
            return scale(replace(recorded, name=name), squeeze_s=squeeze_s, rate=rate, rng=rng)
        case _:
            raise TraceError(f"format {format!r} is unknown; known: {', '.join(FORMATS)}")


def _drawn(name: str, counts: Counts, squeeze_s: float | None, rate: float | None, rng: np.random.Generator) -> Trace:
    return Trace(name, draw(counts, squeeze_s=squeeze_s, rate=rate, rng=rng)[0])


def _name(source: Path, squeeze_s: float | None, rate: float | None) -> str:
    parts = [source.name.split(".")[0]]
    if rate is not None:
        parts.append(f"{rate:g}rps")
    if squeeze_s is not None:
        parts.append(f"{squeeze_s:g}s")
    return "-".join(parts)
