"""Files with one count per minute, second or other bin."""

from pathlib import Path

from superserve.traces.readers.table import read_column
from superserve.traces.squeeze import Counts


def read_counts(source: Path, bin_s: float, column: str | None = None) -> Counts:
    """A CSV file with one row per bin and its count in a column ``count`` or ``requests``, or the one named.

    Raises:
        TraceError: for a missing column or a cell that is no number.
    """
    names = (column,) if column else ("count", "requests")
    return Counts.regular(read_column(source, *names)[1], bin_s)
