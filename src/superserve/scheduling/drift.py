"""How much slower batches run than profiled."""

from typing import Final

from superserve.scheduling.quantile import RunningQuantile

#: The estimate is told in steps of this size, so that tables which depend on it are rarely made anew.
_GRAIN: Final = 1.0 / 64.0


class DriftEstimate:
    """What planned latencies are to be multiplied by: running p99 of time taken over time planned, per worker.

    A profile is a measurement of the past: neighbours, heat and other processes slow a machine down for seconds or for
    good. Planned latencies are a p99 already, so that the estimate is 1 while the profile holds, and it is never less:
    a machine that has become faster is profiled anew. One factor is for all subnets and batch sizes: what slows one
    batch down slows the next one down, whatever its subnet.

    It is the median over workers (the lower one of an even number), for a single slow or hanging worker must not make
    the others' plans worse.
    """

    def __init__(self) -> None:
        self._workers: dict[int, RunningQuantile] = {}
        self.planned = 1.0
        """What to plan with: the estimate, rounded up to a grain."""

    def observe(self, worker: int, taken_ns: int, planned_ns: int) -> None:
        """A batch took so long in a worker, where so much was planned."""
        quantile = self._workers.get(worker)
        if quantile is None:
            quantile = self._workers[worker] = RunningQuantile(1.0, least=1.0)
        before = quantile.value
        quantile.observe(taken_ns / planned_ns)
        if quantile.value != before:
            self._plan()

    def forget(self, worker: int) -> None:
        """A worker is gone: what comes in its place is another process, perhaps in another place."""
        if self._workers.pop(worker, None) is not None:
            self._plan()

    def _plan(self) -> None:
        values = sorted(quantile.value for quantile in self._workers.values())
        drift = values[(len(values) - 1) // 2] if values else 1.0
        self.planned = 1.0 + -(-(drift - 1.0) // _GRAIN) * _GRAIN
