"""What a replay reports: progress while it runs, its result afterwards."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final, Self

import msgspec
import numpy as np
import numpy.typing as npt

from superserve.clock import NS_PER_MS
from superserve.metrics import RunLog

#: A run is void if the p99 of send lateness exceeds this share of the SLO.
MAX_LATENESS_SHARE: Final = 0.10


class Progress(msgspec.Struct, frozen=True):
    """How far a run is."""

    elapsed_s: float
    duration_s: float
    offered: int
    """Requests sent so far."""
    finished: int
    served: int
    """Answered within the deadline."""
    accuracy_sum: float
    """Sum of the profiled accuracy over those."""

    @property
    def attainment(self) -> float | None:
        """Share served within the deadline of what has finished."""
        return self.served / self.finished if self.finished else None

    @property
    def accuracy(self) -> float | None:
        """Mean serving accuracy so far, in per cent."""
        return self.accuracy_sum / self.served if self.served else None


@dataclass(frozen=True)
class ReplayResult:
    """What came of a replay.

    ``lateness_ns``: int64 per request, actual minus scheduled instant of sending. ``log.subnet`` indexes
    ``subnet_ids``. ``emulated``: whether any answer came from an emulated worker; such answers are held against no
    label. ``cpu_share``: CPU time of the sending process during the run, as a share of one core.
    """

    log: RunLog
    lateness_ns: npt.NDArray[np.int64]
    subnet_ids: tuple[str, ...]
    emulated: bool
    slo_ms: float | None
    cpu_share: float

    @property
    def p99_lateness_ms(self) -> float:
        """The p99 of how late requests were sent, in milliseconds."""
        return float(np.quantile(self.lateness_ns, 0.99)) / NS_PER_MS

    @property
    def void_reason(self) -> str | None:
        """Why the run says nothing of the server, or None: the generator sent too late."""
        if self.slo_ms is None or self.p99_lateness_ms <= MAX_LATENESS_SHARE * self.slo_ms:
            return None
        return (
            f"p99 send lateness {self.p99_lateness_ms:.1f} ms exceeds {MAX_LATENESS_SHARE:.0%} of the SLO "
            f"({self.slo_ms:.1f} ms): the generator could not keep its schedule"
        )

    def save(self, path: Path) -> None:
        """Write it as one .npz file."""
        columns = {field.name: getattr(self.log, field.name) for field in fields(RunLog)}
        slo_ms = np.nan if self.slo_ms is None else self.slo_ms
        np.savez(
            path,
            allow_pickle=False,
            lateness_ns=self.lateness_ns,
            subnet_ids=np.array(self.subnet_ids, np.str_),
            scalars=np.array([self.emulated, slo_ms, self.cpu_share]),
            **columns,
        )

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as archive:
            emulated, slo_ms, cpu_share = archive["scalars"].tolist()
            return cls(
                log=RunLog(**{field.name: archive[field.name] for field in fields(RunLog)}),
                lateness_ns=archive["lateness_ns"],
                subnet_ids=tuple(archive["subnet_ids"].tolist()),
                emulated=bool(emulated),
                slo_ms=None if np.isnan(slo_ms) else slo_ms,
                cpu_share=cpu_share,
            )
