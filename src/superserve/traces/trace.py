"""The canonical arrival trace."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from superserve.clock import NS_PER_S
from superserve.errors import TraceError


@dataclass(frozen=True, eq=False)
class Trace:
    """When requests arrive.

    ``arrival_ns``: int64, from the start of the trace, never decreasing. ``slo_ns``: int64 per request, or None for
    one SLO given elsewhere. ``priority``: int32 per request, or None.

    Raises:
        TraceError: for arrivals that are negative or out of order, or columns of different lengths.
    """

    name: str
    arrival_ns: npt.NDArray[np.int64]
    slo_ns: npt.NDArray[np.int64] | None = field(default=None)
    priority: npt.NDArray[np.int32] | None = field(default=None)

    def __post_init__(self) -> None:
        arrival_ns = self.arrival_ns
        if arrival_ns.ndim != 1 or arrival_ns.dtype != np.int64:
            raise TraceError(f"trace {self.name!r}: arrival_ns must be one column of int64")
        if len(arrival_ns) and (arrival_ns[0] < 0 or np.any(np.diff(arrival_ns) < 0)):
            raise TraceError(f"trace {self.name!r}: arrival_ns must start at 0 or later and never decrease")
        for name, column in (("slo_ns", self.slo_ns), ("priority", self.priority)):
            if column is not None and column.shape != arrival_ns.shape:
                raise TraceError(f"trace {self.name!r}: {name} must have one value per arrival")

    def __len__(self) -> int:
        return len(self.arrival_ns)

    @property
    def duration_s(self) -> float:
        """From the start to the last arrival, in seconds."""
        return float(self.arrival_ns[-1]) / NS_PER_S if len(self) else 0.0

    @property
    def mean_rate(self) -> float:
        """Requests per second over the duration; 0 for a trace without one."""
        return len(self) / self.duration_s if self.duration_s else 0.0

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a canonical trace file (.npz).

        Raises:
            TraceError: if it cannot be read; the message names the file and the field.
        """
        try:
            with np.load(path, allow_pickle=False) as archive:
                columns = {name: archive[name] for name in archive.files}
        except (OSError, ValueError) as error:
            raise TraceError(f"trace {path}: not a readable .npz file: {error}") from None
        if "arrival_ns" not in columns:
            raise TraceError(f"trace {path}: column arrival_ns is missing; it has {sorted(columns)}")
        return cls(path.stem, columns["arrival_ns"], columns.get("slo_ns"), columns.get("priority"))

    def save(self, path: Path) -> None:
        """Write the canonical file, renamed into place when complete."""
        columns = {"arrival_ns": self.arrival_ns, "slo_ns": self.slo_ns, "priority": self.priority}
        scratch = path.with_name(f".{path.name}.partial.npz")
        np.savez_compressed(
            scratch, allow_pickle=False, **{name: column for name, column in columns.items() if column is not None}
        )
        scratch.replace(path)
