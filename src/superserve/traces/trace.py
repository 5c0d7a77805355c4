"""The canonical arrival trace."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from superserve.clock import NS_PER_MS, NS_PER_S
from superserve.errors import TraceError

#: Columns that a trace may have beside its arrivals, one value per request.
OPTIONAL_COLUMNS: Final = ("slo_ns", "priority", "request_class", "rows", "min_accuracy")


@dataclass(frozen=True, eq=False)
class Trace:
    """When requests arrive.

    ``arrival_ns``: int64, from the start of the trace, never decreasing. ``slo_ns``: int64 per request, or None for
    one SLO given elsewhere. ``priority``: int32 per request, or None. ``request_class``: int32 per request, or None:
    which kind of traffic it is; only reports use it. ``rows``: int32 per request, or None: one row each.
    ``min_accuracy``: float64 per request, or None: its accuracy floor in per cent.

    Raises:
        TraceError: for arrivals that are negative or out of order, or columns of different lengths.
    """

    name: str
    arrival_ns: npt.NDArray[np.int64]
    slo_ns: npt.NDArray[np.int64] | None = field(default=None)
    priority: npt.NDArray[np.int32] | None = field(default=None)
    request_class: npt.NDArray[np.int32] | None = field(default=None)
    rows: npt.NDArray[np.int32] | None = field(default=None)
    min_accuracy: npt.NDArray[np.float64] | None = field(default=None)

    def __post_init__(self) -> None:
        arrival_ns = self.arrival_ns
        if arrival_ns.ndim != 1 or arrival_ns.dtype != np.int64:
            raise TraceError(f"trace {self.name!r}: arrival_ns must be one column of int64")
        if len(arrival_ns) and (arrival_ns[0] < 0 or np.any(np.diff(arrival_ns) < 0)):
            raise TraceError(f"trace {self.name!r}: arrival_ns must start at 0 or later and never decrease")
        for name, column in self.optional().items():
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

    def optional(self) -> dict[str, npt.NDArray[Any] | None]:
        """The columns beside the arrivals, by name; None for those that it does not have."""
        return {name: getattr(self, name) for name in OPTIONAL_COLUMNS}

    def replaced(self, arrival_ns: npt.NDArray[np.int64], origin: npt.NDArray[np.int64] | None = None) -> "Trace":
        """Other arrivals, each with the columns of the arrival at its ``origin``; None: one by one."""
        columns = {name: column for name, column in self.optional().items() if column is not None}
        if origin is not None:
            columns = {name: column[origin] for name, column in columns.items()}
        return Trace(self.name, arrival_ns, **columns)

    def mixed(self, slos_ms: dict[float, float], rng: np.random.Generator) -> "Trace":
        """The same arrivals with deadlines drawn from classes.

        Args:
            slos_ms: milliseconds from arrival to deadline, with the weight of each class. Class 0 is the first.
            rng: source of the draws.

        Raises:
            TraceError: for no class, or an SLO or weight that is not above 0.
        """
        if not slos_ms or not all(0 < value < np.inf for pair in slos_ms.items() for value in pair):
            raise TraceError(f"deadline classes {slos_ms}: every SLO and every weight must be a number above 0")
        weights = np.array(list(slos_ms.values()))
        drawn = rng.choice(len(weights), len(self), p=weights / weights.sum()).astype(np.int32)
        slo_ns = np.rint(np.array(list(slos_ms)) * NS_PER_MS).astype(np.int64)
        return replace(self, slo_ns=slo_ns[drawn], request_class=drawn)

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
        return cls(path.stem, columns["arrival_ns"], *(columns.get(name) for name in OPTIONAL_COLUMNS))

    def save(self, path: Path) -> None:
        """Write the canonical file, renamed into place when complete."""
        columns = {name: column for name, column in self.optional().items() if column is not None}
        save_columns(path, {"arrival_ns": self.arrival_ns, **columns})


def save_columns(path: Path, columns: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write columns as a canonical file (.npz), renamed into place when complete.

    Raises:
        OSError: if it cannot be written; nothing is left of it.
    """
    scratch = path.with_name(f".{path.name}.partial.npz")
    try:
        np.savez_compressed(scratch, allow_pickle=False, **columns)
        scratch.replace(path)
    except OSError:
        scratch.unlink(missing_ok=True)
        raise
