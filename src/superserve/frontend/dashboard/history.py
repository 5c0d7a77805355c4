"""The last five minutes of a server: what its counters say once a second.

Nothing of it is on the path of requests: they count what they always count, and a timer reads it.
"""

from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Final, NamedTuple

from superserve.clock import NS_PER_S, Clock, Timer, epoch_ms
from superserve.frontend.dashboard.activity import (
    LETTERS,
    Activity,
    ModelCard,
    ModelSecond,
    Second,
    SubnetCard,
    WorkerNow,
    WorkerState,
)
from superserve.frontend.dashboard.headroom import headroom
from superserve.frontend.dashboard.totals import Totals
from superserve.scheduling.workers import SharedWorkers
from superserve.serving.dataplane import DataPlane, ServedModel
from superserve.serving.metadata import TensorMetadata

#: Seconds that are kept.
_KEPT: Final = 300
#: Demand is the mean over so many.
_DEMAND_SPAN: Final = 10


class _Demand(NamedTuple):
    """Of a model in a second: requests that came, and how many rows those had that were answered."""

    arrived: int
    answered: int
    rows: int


class History:
    """Reads the counters of all models once a second, between `start` and `stop`.

    Args:
        plane: the models.
        workers: those that run them.
        size: how many workers there should be.
        clock: time and timers.
    """

    def __init__(self, plane: DataPlane, workers: SharedWorkers, size: Callable[[], int], clock: Clock) -> None:
        self._plane = plane
        self._workers = workers
        self._size = size
        self._clock = clock
        self._started_ms = epoch_ms()
        self._revision = 0
        self._seconds: deque[Second] = deque(maxlen=_KEPT)
        self._numbers = 0
        self._totals: dict[ServedModel, Totals] = {}
        self._demands: dict[ServedModel, deque[_Demand]] = {}
        self._read_ns = 0
        self._timer: Timer | None = None

    @property
    def run(self) -> str:
        """See `Activity.run`."""
        return f"{self._started_ms}-{self._revision}"

    def start(self) -> None:
        """Begin."""
        self._read_ns = self._clock.now_ns()
        self._meet()
        self._timer = self._clock.call_at(self._read_ns + NS_PER_S, self._tick)

    def stop(self) -> None:
        """End; idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def headroom(self) -> float:
        """See `superserve.frontend.dashboard.headroom`; of the demand of the last ten seconds."""
        demands = [(model, self._rows_per_s(model)) for model in self._plane.models.values()]
        return headroom(demands, max((model.router.scheduler.capacity for model, _ in demands), default=0))

    def told(self, run: str, after: int) -> Activity:
        """What is new for somebody who knows a run up to a second; everything if that is another run."""
        known = run == self.run
        missing = self._numbers - after if known and 0 <= after <= self._numbers else len(self._seconds)
        models = list(self._plane.models.values())
        notable = [summary for model in models for summary in model.notable()]
        return Activity(
            run=self.run,
            version=self._plane.metadata.version,
            ready=self._plane.ready,
            models=None if known else [_card(model) for model in models],
            seconds=list(islice(self._seconds, max(0, len(self._seconds) - missing), None)),
            workers=self._workers_now(),
            packed={model.config.name: report for model in models if (report := model.router.residency) is not None},
            notable=sorted(notable, key=lambda summary: summary.arrived, reverse=True),
        )

    def _tick(self) -> None:
        now_ns = self._clock.now_ns()
        span_ns = max(1, now_ns - self._read_ns)
        self._read_ns = now_ns
        self._meet()
        busy_ns = 0
        seconds: dict[str, ModelSecond] = {}
        for name, model in self._plane.models.items():
            totals = Totals.of(model)
            new, self._totals[model] = totals.since(self._totals[model]), totals
            busy_ns += new.busy_ns
            self._demands[model].append(_Demand(new.arrived, sum(new.answered), new.rows))
            seconds[name] = new.second(model, span_ns)
        workers = self._workers_now()
        self._numbers += 1
        self._seconds.append(
            Second(
                number=self._numbers,
                at_ms=epoch_ms(),
                busy=round(busy_ns / span_ns / max(1, len(self._workers.live)), 3),
                headroom=round(self.headroom(), 3),
                workers="".join(LETTERS[one.state] for one in workers),
                models=seconds,
            )
        )
        self._timer = self._clock.call_at(now_ns + NS_PER_S, self._tick)

    def _meet(self) -> None:
        """See which models have come, gone or been replaced; of these nothing is kept, for their subnets differ."""
        models = set(self._plane.models.values())
        gone = self._totals.keys() - models
        for model in gone:
            del self._totals[model], self._demands[model]
            for second in self._seconds:
                second.models.pop(model.config.name, None)
        new = models - self._totals.keys()
        for model in new:
            self._totals[model] = Totals.of(model)
            self._demands[model] = deque(maxlen=_DEMAND_SPAN)
        self._revision += bool(gone or new)

    def _rows_per_s(self, model: ServedModel) -> float:
        demands = self._demands.get(model)
        if not demands:
            return 0.0
        arrived, answered, rows = map(sum, zip(*demands, strict=True))
        return arrived / len(demands) * (rows / answered if answered else 1.0)

    def _workers_now(self) -> list[WorkerNow]:
        return [self._worker_now(worker) for worker in sorted({*range(self._size()), *self._workers.live})]

    def _worker_now(self, worker: int) -> WorkerNow:
        if worker not in self._workers.live:
            return WorkerNow(worker=worker, state="away")
        for name, model in self._plane.models.items():
            launch = model.router.scheduler.running(worker)
            if launch is not None and launch.requests:  # work for idle times does not keep anybody from them
                subnet = model.router.table.ids[launch.subnet]
                state: WorkerState = "slow" if model.router.scheduler.slow(worker) else "busy"
                return WorkerNow(worker=worker, state=state, model=name, subnet=subnet, rows=launch.rows)
        slow = any(model.router.scheduler.slow(worker) for model in self._plane.models.values())
        return WorkerNow(worker=worker, state="slow" if slow else "idle")


def _card(model: ServedModel) -> ModelCard:
    config, table = model.config, model.router.table
    return ModelCard(
        name=config.name,
        task=config.task,
        dataset=config.dataset,
        emulated=model.emulated,
        policy=model.router.policy_name,
        slo_ms=model.slo_ms,
        subnets=[SubnetCard(*each) for each in zip(table.ids, table.accuracies, strict=True)],
        inputs=list(map(TensorMetadata.of, config.inputs)),
        outputs=list(map(TensorMetadata.of, config.outputs)),
        labels=config.labels,
        white=_white(config.preprocessing),
    )


def _white(preprocessing: dict[str, object]) -> int | None:
    scale = preprocessing.get("scale")
    return round(1 / scale) if isinstance(scale, int | float) and scale > 0 else None
