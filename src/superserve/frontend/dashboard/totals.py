"""What a model has counted, read twice, is what it did in between."""

from collections.abc import Sequence
from itertools import accumulate
from operator import mul, sub
from typing import NamedTuple

from superserve.clock import NS_PER_MS, NS_PER_S
from superserve.frontend.dashboard.activity import ModelSecond
from superserve.request import Outcome
from superserve.serving.dataplane import ServedModel


class Totals(NamedTuple):
    """Counts of a model since it was first served, or between two instants.

    ``outcomes`` are in the order of `Outcome`, ``answered`` are requests by subnet, ``latency`` those by the bounds of
    `Telemetry.request`; ``busy_ns`` is the time of its batches in workers; ``packed`` are requests that were answered
    from packed weights, None on other engines.
    """

    arrived: int
    outcomes: Sequence[int]
    answered: Sequence[int]
    batches: int
    rows: int
    busy_ns: int
    latency: Sequence[int]
    packed: int | None

    @classmethod
    def of(cls, model: ServedModel) -> "Totals":
        """As of now."""
        router = model.router
        telemetry, outcomes, residency = router.telemetry, list(router.outcomes.values()), router.residency
        return cls(
            arrived=sum(outcomes) + router.unfinished,
            outcomes=outcomes,
            answered=list(telemetry.answered),
            batches=sum(sum(rows.counts) for rows in telemetry.rows),
            rows=sum(rows.total for rows in telemetry.rows),
            busy_ns=sum(inference.total for inference in telemetry.inference),
            latency=list(telemetry.request.counts),
            packed=None if residency is None else residency.answered,
        )

    def since(self, before: "Totals") -> "Totals":
        """What has come to it."""
        return Totals(
            self.arrived - before.arrived,
            list(map(sub, self.outcomes, before.outcomes)),
            list(map(sub, self.answered, before.answered)),
            self.batches - before.batches,
            self.rows - before.rows,
            self.busy_ns - before.busy_ns,
            list(map(sub, self.latency, before.latency)),
            None if self.packed is None else self.packed - (before.packed or 0),
        )

    def second(self, model: ServedModel, span_ns: int) -> ModelSecond:
        """What happened in a span of time, per second."""
        per_s = NS_PER_S / span_ns
        outcomes = dict(zip(Outcome, self.outcomes, strict=True))
        ended, answered = sum(self.outcomes), sum(self.answered)
        accuracies = model.router.table.accuracies
        accuracy = sum(map(mul, self.answered, accuracies)) / answered if answered else None
        bounds = model.router.telemetry.request.bounds
        return ModelSecond(
            offered=_rate(self.arrived, per_s),
            attainment=_round(outcomes[Outcome.SERVED] / ended, 5) if ended else None,
            accuracy=_round(accuracy),
            given_up=None if accuracy is None else _round(max(accuracies) - accuracy),
            p50_ms=_ms(quantile(bounds, self.latency, 0.5)),
            p99_ms=_ms(quantile(bounds, self.latency, 0.99)),
            batch_rows=_round(self.rows / self.batches) if self.batches else None,
            queued=model.router.queue_depth,
            subnets=[_rate(count, per_s) for count in self.answered],
            packed=None if self.packed is None else _rate(self.packed, per_s),
            **{outcome.value: _rate(count, per_s) for outcome, count in outcomes.items()},
        )


def quantile(bounds: Sequence[int], counts: Sequence[int], part: float) -> float | None:
    """A quantile out of a histogram, as PromQL's ``histogram_quantile``: linear within a bucket.

    Above the last bound nothing is known: what lies there counts as that. None of nothing.
    """
    total = sum(counts)
    if not total:
        return None
    rank = part * total
    below, low = 0, 0
    for bound, upto in zip(bounds, accumulate(counts), strict=False):
        if upto >= rank:
            return low + (bound - low) * (rank - below) / (upto - below)
        below, low = upto, bound
    return bounds[-1]


def _rate(count: int, per_s: float) -> float:
    return round(count * per_s, 1)


def _ms(ns: float | None) -> float | None:
    return _round(None if ns is None else ns / NS_PER_MS)


def _round(value: float | None, digits: int = 2) -> float | None:
    """To what anybody looks at: five minutes are a few hundred kilobytes else."""
    return None if value is None else round(value, digits)
