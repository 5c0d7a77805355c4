"""Who is admitted where workers are of several devices."""

from collections.abc import Callable, Sequence
from math import ceil, inf
from typing import NamedTuple

from superserve.request import Request
from superserve.scheduling.actions import Launch
from superserve.scheduling.admission import OWN_PART, Admission, Prediction, Promise, Supply
from superserve.scheduling.device_plan import DevicePlan
from superserve.scheduling.efficient import Batch
from superserve.scheduling.policy import Policy, SchedulerView
from superserve.scheduling.victims import level
from superserve.scheduling.waiting import WaitingQueue
from superserve.scheduling.workers import Workers


class _Need(NamedTuple):
    """What is to be served by a deadline, and what worker time is worth to it."""

    rows: int
    time_ns: float
    """In time of whichever device takes the least of it for a row."""
    worth: Sequence[float]
    """By device: of that time, what its workers do in theirs; at most 1, and 0 if they can do none of it."""


class MixedAdmission(Admission):
    """`Admission` where workers are of several devices.

    What is certain stays a bound. A row counts for the time that it takes where it takes the least, and a worker's time
    for the largest part of that which it can do, over all kinds of rows that are to be served: c(k) / p(k, d) for rows
    of kind k, which take p(k, d) on device d and c(k) at least. However rows are divided among devices, those that a
    worker serves in a time then count for no more than that time does.

    In overload the schedule is that of each device's own efficient batches.

    Args:
        policy, queue, view, share: see `Admission`.
        workers: those of all devices.
        devices: what there is.
    """

    def __init__(
        self,
        policy: Policy,
        queue: WaitingQueue,
        view: SchedulerView,
        share: Callable[[int], float] = lambda _: 1.0,
        *,
        workers: Workers,
        devices: Sequence[DevicePlan],
    ) -> None:
        self._devices = devices
        super().__init__(policy, queue, view, workers.soonest, share, tables=devices[0].tables)

    def price(self, overhead_ns: int) -> None:  # noqa: ARG002  (each device has its own)
        """What is planned with has changed."""
        fastest = self._policy.subnets[0]
        for device in self._devices:
            device.price(self._view.drift)
        self._row_ns = max(_row_ns(device.times.typical[-1].best(fastest, 0)) for device in self._devices)

    def typical_ns(self, launch: Launch) -> int:
        """See `Admission.typical_ns`."""
        device = self._devices[launch.device]
        return device.typical_ns(launch.subnet, launch.rows, launch.bucket, launch.drift)

    def _late(self, now_ns: int, request: Request, fastest: int) -> Prediction | None:
        deadline_ns, live = request.deadline_ns, self._live()
        need = self._need(now_ns, request, fastest, live)
        time_ns, starts = 0.0, False
        for device, worth in zip(live, need.worth, strict=True):
            workers = device.fleet.live
            free_ns = device.fleet.soonest.free_sum_ns(now_ns, workers)
            time_ns += worth * (workers * deadline_ns - free_ns)
            starts = starts or workers * self._latest_ns(device, request, fastest) >= free_ns
        if starts and time_ns >= need.time_ns:
            return None
        ends: list[tuple[int, float]] = []
        late_ns: float = inf
        for device, worth in zip(live, need.worth, strict=True):
            own = device.fleet.soonest.ends_ns(now_ns, device.fleet.live)
            late_ns = min(late_ns, min(own) - self._latest_ns(device, request, fastest))
            ends += [(end_ns, worth) for end_ns in own if worth]
        late_ns = max(late_ns, _missing(ends, deadline_ns, need.time_ns))
        if late_ns <= 0:
            return None
        due_ns, workers = deadline_ns - now_ns, len(self._view.workers)
        batch = min((device.times.typical[request.bucket].best(fastest, due_ns) for device in live), key=_row_ns)
        # What it takes a worker that is like all of them on average: so the figures fit together.
        all_ns = need.time_ns / need.rows * batch.rows
        batch_ns = round(all_ns * workers / max(1.0, sum(worth for _, worth in ends)))
        rows = need.rows - request.rows
        return Prediction(Promise.OWN, rows, batch.rows, batch_ns, workers, due_ns + ceil(late_ns), due_ns)

    def _late_in_batch(self, now_ns: int, request: Request, fastest: int) -> Prediction | None:
        left_ns, share = request.deadline_ns - now_ns, self._share(now_ns)
        started, rows, rows_per_ns, latest_ns, next_ns = 0, 0, 0.0, now_ns, inf
        most = Batch(0, 1)
        for device in self._live():
            times, workers = device.times.planned[-1], device.fleet.live
            batch, own = times.best(fastest, left_ns), times.best(fastest, int(left_ns * OWN_PART))
            last_ns = min(self._latest_ns(device, request, fastest), request.deadline_ns - own.time_ns - 1)
            rows, row_ns = self._ahead(device.times.planned, now_ns, request, batch)
            batch_ns = max(1, round(batch.rows * row_ns / share))
            for end_ns in device.fleet.commitments.ends_ns(now_ns, workers):
                here = max(0, (last_ns - end_ns) // batch_ns + 1)
                started += here * batch.rows
                next_ns = min(next_ns, end_ns + here * batch_ns)
            rows_per_ns += workers * batch.rows / batch_ns
            latest_ns = max(latest_ns, last_ns)
            most = min(most, batch, key=_row_ns) if most.rows else batch
        rows += self._expected(now_ns, request, latest_ns)
        if started > rows:
            return None
        start_ns = round(next_ns + (rows - started) / rows_per_ns)
        workers = len(self._view.workers)
        batch_ns = round(most.rows * workers / rows_per_ns)
        return Prediction(Promise.BATCH, rows, most.rows, batch_ns, workers, start_ns - now_ns, latest_ns - now_ns)

    def _late_others(self, now_ns: int, request: Request, fastest: int) -> Prediction | None:
        queue = self._queue
        ahead = queue.position_of(request.deadline_ns)
        if ahead == len(queue):
            return None
        live, left_ns = self._live(), request.deadline_ns - now_ns
        batches = [device.times.planned[-1].best(fastest, left_ns) for device in live]
        most = min(batches, key=_row_ns)
        count, free_ns, reserve_ns = 0.0, 0.0, 0.0
        for device, batch in zip(live, batches, strict=True):
            workers, worth = device.fleet.live, _row_ns(most) / _row_ns(batch)
            count += worth * workers
            free_ns += worth * device.fleet.commitments.free_sum_ns(now_ns, workers)
            reserve_ns += worth * workers * batch.time_ns
        return self._displaced(now_ns, request, ahead, most, Supply(count, free_ns, reserve_ns))

    def _live(self) -> Sequence[DevicePlan]:
        return [device for device in self._devices if device.fleet.live]

    def _latest_ns(self, device: DevicePlan, request: Request, fastest: int) -> int:
        """Until when a worker of a device has to be free for a request, alone."""
        takes_ns = device.alone_ns(fastest, request.rows, request.bucket, self._view.drift) - device.hidden_ns
        return request.deadline_ns - takes_ns - 1

    def _need(self, now_ns: int, request: Request, fastest: int, live: Sequence[DevicePlan]) -> _Need:
        """What is due no later than a request, and no less urgent, and the request itself."""
        span_ns = request.deadline_ns - now_ns
        kinds = [(request.rows, fastest, request.bucket)]
        for kind, count in self._queue.rows_of_kinds(request.deadline_ns):
            if kind.level <= level(request):
                kinds.append((count, kind.fastest, kind.bucket))
        time_ns, worth = 0.0, [0.0] * len(live)
        for count, subnet, bucket in kinds:
            batches = [device.times.typical[bucket].best(subnet, span_ns) for device in live]
            rows_ns = [_row_ns(batch) if batch.time_ns < span_ns else inf for batch in batches]
            least_ns = min(rows_ns)
            if least_ns < inf:  # else no worker can serve it any more, and none spends time on it
                time_ns += count * least_ns
                worth = [max(least_ns / row_ns, before) for row_ns, before in zip(rows_ns, worth, strict=True)]
        return _Need(sum(count for count, _, _ in kinds), time_ns, worth)


def _row_ns(batch: Batch) -> float:
    return batch.time_ns / batch.rows


def _missing(ends: Sequence[tuple[int, float]], deadline_ns: int, need_ns: float) -> float:
    """By how much later a request would have to be due for the workers to have enough time before; at most 0 if not.

    Args:
        ends: when each worker is free, and what its time is worth.
        deadline_ns: when the request is due.
        need_ns: worker time that there has to be.
    """
    ends = sorted(ends)
    later_ns, time_ns, speed = -inf, 0.0, 0.0
    for count, (end_ns, worth) in enumerate(ends, 1):
        time_ns += worth * (deadline_ns - end_ns)
        speed += worth
        later_ns = (need_ns - time_ns) / speed
        if count < len(ends) and deadline_ns + later_ns < ends[count][0]:
            break
    return later_ns
