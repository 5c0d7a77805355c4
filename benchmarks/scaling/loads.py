"""Loads of a thousand requests/s per worker, however many workers there are."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from superserve.clock import NS_PER_S
from superserve.experiments.reproduction.loads import Azure, AzureLlm, Bursty
from superserve.experiments.scenario import TraceSource
from superserve.scheduling import SchedulerLimits
from superserve.traces.squeeze import scale
from superserve.traces.trace import Trace

PROFILE: Final = "r-profile"
SLO_MS: Final = 36.0
#: Of the dispatch of a batch.
OVERHEAD_MS: Final = 1.0
#: Of a scheduler: as many as come within a deadline may wait, nobody is refused for want of a place in the queue.
LIMITS: Final = SchedulerLimits(max_queued=1_000_000)
#: Requests/s per worker. The paper's eight workers are offered up to 8,000/s.
RATE: Final = 1_000.0
#: Five sixths of what the fastest subnet carries, and all but a hundredth of it.
HIGH_RATE: Final = 1_600.0
FULL_RATE: Final = 1_900.0
#: Of a scheduler, where a load says nothing else.
MOST_WORKERS: Final = 1_024
#: Near saturation it takes several seeds, and each request more time.
FEWER_WORKERS: Final = 256
#: Share of the steady part of bursty loads, as in the paper: 1,500 of 7,050 requests/s (section 6.3.1).
STEADY: Final = 0.21
#: Workers of the paper's machine: "as on eight workers" means a load whose ups and downs are those of a load for them.
PAPER_WORKERS: Final = 8
#: Seconds that the paper squeezes a day of Azure Functions into.
_DAY_S: Final = 120.0


@dataclass(frozen=True)
class Independent:
    """The paper's bursty load at the full rate: requests come independently of each other, so that many are smooth."""

    cv2: float
    workers: int = MOST_WORKERS
    seeds: int = 1

    @property
    def name(self) -> str:
        """What tables call it."""
        return f"gaps of CV² {self.cv2:g} at the full rate"

    def trace(self, workers: int, seconds: float, seed: int) -> Trace:
        """The arrivals of a seed."""
        return _bursty(self.cv2, RATE * workers, seconds).trace(seed)


@dataclass(frozen=True)
class Common:
    """A load for eight workers, with each of its requests turned into many: bursts that everybody takes part in."""

    name: str
    source: Callable[[float, float], TraceSource]
    """By requests/s and seconds."""
    span_s: float | None = None
    """Of a recording that is longer than the run: its busiest part of the run's length is taken."""
    rate: float = RATE
    """Requests/s per worker."""
    workers: int = MOST_WORKERS
    seeds: int = 1
    """How many make what comes of it certain enough."""

    def trace(self, workers: int, seconds: float, seed: int) -> Trace:
        """The arrivals of a seed."""
        small = self.source(self.rate * PAPER_WORKERS, self.span_s or seconds).trace(seed)
        if self.span_s is not None:
            small = busiest(small, seconds)
        return scale(small, squeeze_s=seconds, rate=self.rate * workers, rng=np.random.default_rng((seed, 1)))


Load = Independent | Common


def loads(data: Path | None) -> tuple[Load, ...]:
    """What shards are compared under; recordings only where there are any."""
    made: tuple[Load, ...] = (
        *(Independent(cv2) for cv2 in (1.0, 16.0)),
        *(Common(f"bursts of CV² {cv2:g} as on eight workers", partial(_bursty, cv2)) for cv2 in (4.0, 16.0)),
        Common("bursts of CV² 16 at 1.6 times the rate", partial(_bursty, 16.0), rate=HIGH_RATE),
        Common(
            f"bursts of CV² 16 at 1.9 times the rate, {FEWER_WORKERS} workers",
            partial(_bursty, 16.0),
            rate=FULL_RATE,
            workers=FEWER_WORKERS,
            seeds=3,
        ),
    )
    if data is None:
        return made
    return (
        *made,
        Common("Azure Functions, its busiest part", partial(Azure, data), _DAY_S),
        Common("Azure LLM, its busiest part", partial(AzureLlm, data), _DAY_S),
    )


def busiest(trace: Trace, seconds: float) -> Trace:
    """The part of a length that has the most arrivals, from 0 on."""
    at_ns, span_ns = trace.arrival_ns, round(seconds * NS_PER_S)
    ends = np.searchsorted(at_ns, at_ns + span_ns)
    first = int((ends - np.arange(len(trace))).argmax())
    part = slice(first, int(ends[first]))
    return trace.replaced(at_ns[part] - at_ns[first], np.arange(len(trace))[part])


def _bursty(cv2: float, rate: float, seconds: float) -> Bursty:
    """The paper's load (b)."""
    return Bursty(STEADY * rate, (1 - STEADY) * rate, cv2, seconds)
