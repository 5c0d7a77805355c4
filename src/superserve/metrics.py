"""What came of a run: one log of columns, one result row.

The live replay and the simulator fill the same `RunLog`, and `summarise` turns either into a `ResultRow`, so that a
predicted and a measured figure are the same arithmetic.
"""

from dataclasses import dataclass, fields
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from superserve.clock import NS_PER_MS
from superserve.request import Outcome

#: Position of an outcome in `RunLog.outcome`.
OUTCOME_CODES: Final = {outcome: code for code, outcome in enumerate(Outcome)}

NO_SUBNET: Final = -1
UNLABELLED: Final = -1


class ResultRow(msgspec.Struct, frozen=True, kw_only=True):
    """One line of every table. Accuracies are in per cent, attainment is 0..1, null means not computed."""

    policy: str
    trace: str
    seed: int
    workers: int
    slo_ms: float
    offered: int
    served: int
    late: int
    expired: int
    rejected: int
    cancelled: int
    failed: int
    slo_attainment: float
    """Served within the deadline / all offered."""
    mean_serving_accuracy: float | None
    """Mean profiled accuracy over requests served within the deadline."""
    goodput_weighted_accuracy: float
    """Sum of that accuracy / all offered: cannot be gained by dropping."""
    measured_accuracy: float | None
    """Share of correct answers, against labels, among requests served within the deadline."""
    p50_ms: float | None
    """Latency of answered requests (late ones too), from arrival."""
    p99_ms: float | None
    mean_batch: float | None
    """Requests per executed batch."""
    distance_to_bound: float | None = None
    emulated: bool = False


@dataclass(frozen=True)
class RunLog:
    """One entry per offered request, in order of arrival.

    ``arrival_ns``, ``end_ns``: int64, from the start of the run; ``end_ns`` is when the outcome was known.
    ``outcome``: uint8, an `OUTCOME_CODES` value. ``subnet``: int16 front index or `NO_SUBNET`. ``accuracy``: float64,
    profiled accuracy of that subnet, NaN without. ``batch_rows``: int32, rows of the batch it ran in, 0 without.
    ``correct``: int8, 1 or 0 against the label, `UNLABELLED` without.
    """

    arrival_ns: npt.NDArray[np.int64]
    end_ns: npt.NDArray[np.int64]
    outcome: npt.NDArray[np.uint8]
    subnet: npt.NDArray[np.int16]
    accuracy: npt.NDArray[np.float64]
    batch_rows: npt.NDArray[np.int32]
    correct: npt.NDArray[np.int8]

    def __post_init__(self) -> None:
        lengths = {len(getattr(self, field.name)) for field in fields(self)}
        assert len(lengths) == 1, f"columns of different lengths: {lengths}"

    def __len__(self) -> int:
        return len(self.arrival_ns)

    @classmethod
    def empty(cls, arrival_ns: npt.NDArray[np.int64]) -> "RunLog":
        """A log to be filled in, every request failed so far."""
        n = len(arrival_ns)
        return cls(
            arrival_ns=arrival_ns,
            end_ns=arrival_ns.copy(),
            outcome=np.full(n, OUTCOME_CODES[Outcome.FAILED], np.uint8),
            subnet=np.full(n, NO_SUBNET, np.int16),
            accuracy=np.full(n, np.nan),
            batch_rows=np.zeros(n, np.int32),
            correct=np.full(n, UNLABELLED, np.int8),
        )

    def where(self, mask: npt.NDArray[np.bool_]) -> "RunLog":
        """The entries of some requests."""
        return RunLog(**{field.name: getattr(self, field.name)[mask] for field in fields(self)})

    def is_outcome(self, *outcomes: Outcome) -> npt.NDArray[np.bool_]:
        """Mask of the requests that ended in one of these outcomes."""
        return np.isin(self.outcome, [OUTCOME_CODES[outcome] for outcome in outcomes])


def summarise(
    log: RunLog, *, policy: str, trace: str, seed: int, workers: int, slo_ms: float, emulated: bool = False
) -> ResultRow:
    """The result row of a run; see `ResultRow` for each figure's definition.

    Raises:
        ValueError: for a run in which nothing was offered.
    """
    offered = len(log)
    if offered == 0:
        raise ValueError("nothing was offered in this run: no figure is defined")
    served = log.is_outcome(Outcome.SERVED)
    answered = log.is_outcome(Outcome.SERVED, Outcome.LATE)
    latency_ms = (log.end_ns[answered] - log.arrival_ns[answered]) / NS_PER_MS
    return ResultRow(
        policy=policy,
        trace=trace,
        seed=seed,
        workers=workers,
        slo_ms=slo_ms,
        offered=offered,
        **{outcome.value: int(log.is_outcome(outcome).sum()) for outcome in Outcome},
        slo_attainment=float(served.sum() / offered),
        mean_serving_accuracy=_mean(log.accuracy[served]),
        goodput_weighted_accuracy=float(log.accuracy[served].sum() / offered),
        measured_accuracy=_percent_correct(log.correct[served]),
        p50_ms=_quantile(latency_ms, 0.50),
        p99_ms=_quantile(latency_ms, 0.99),
        mean_batch=_mean_batch(log.batch_rows[answered]),
        emulated=emulated,
    )


def by_class(log: RunLog, request_class: npt.NDArray[np.int32] | None, whole: ResultRow) -> list[ResultRow]:
    """A row per class of requests, in rising order; none without classes.

    Args:
        log: of the run.
        request_class: one per request, or None.
        whole: the row of the run, whose names and numbers of workers and seed they take over.
    """
    if request_class is None:
        return []
    return [
        summarise(
            log.where(request_class == kind),
            policy=f"{whole.policy}, class {kind}",
            trace=whole.trace,
            seed=whole.seed,
            workers=whole.workers,
            slo_ms=whole.slo_ms,
            emulated=whole.emulated,
        )
        for kind in np.unique(request_class).tolist()
    ]


def _mean(values: npt.NDArray[Any]) -> float | None:
    return float(values.mean()) if len(values) else None


def _quantile(values: npt.NDArray[Any], q: float) -> float | None:
    return float(np.quantile(values, q)) if len(values) else None


def _percent_correct(correct: npt.NDArray[np.int8]) -> float | None:
    labelled = correct[correct != UNLABELLED]
    return 100.0 * float(labelled.mean()) if len(labelled) else None


def _mean_batch(batch_rows: npt.NDArray[np.int32]) -> float | None:
    # A batch of b requests appears b times in the log: each counts for 1/b of a batch.
    if not len(batch_rows):
        return None
    return float(len(batch_rows) / (1.0 / batch_rows).sum())
