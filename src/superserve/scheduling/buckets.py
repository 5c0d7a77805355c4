"""Rows of different lengths in one queue: what a batch is planned for, and where it ends before a longer row."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

from superserve.profile import LatencyTable, Profile
from superserve.scheduling.policy import Decision, Policy, SchedulerView, TimeoutAction, Wait, create_policy


class _Run(NamedTuple):
    """The requests of a batch that ends where some larger bucket begins."""

    bucket: int
    """The largest of theirs."""
    rows: int


class ByBucket:
    """Asks a policy with the table of the bucket that its batch will run at.

    A batch is padded to its longest row, so what it takes is known only when its rows are. There is one object of the
    policy per bucket. The one of the largest bucket among the rows that a batch may have is asked first: its answer
    holds, whatever it takes of them. That batch could as well end before the first row of any larger bucket. Of these
    ends the one with the least time per row is taken, each in its own bucket, at the subnet of the answer and with the
    dispatch; and if its bucket is smaller than the one that was asked for, the policy of that one is asked anew, since
    it may now afford a more accurate subnet. Its batch ends before the first row that is longer.

    So every batch is contiguous in deadline order and planned with the largest bucket in it, or with a larger one where
    requests are given up: those are the first answer's, for full batches serve the most rows per time. But if it would
    run nothing at all, a smaller bucket is asked: its rows may still be in time without the longer ones behind them.

    Args:
        policies: of each bucket, the shortest rows first; they differ in nothing but their tables.
    """

    def __init__(self, policies: Sequence[Policy]) -> None:
        self._policies = policies
        self._max_rows = policies[-1].table.max_rows

    def decide(self, view: SchedulerView) -> Decision | Wait:
        """See `Policy.decide`."""
        buckets = [run.bucket for run in _runs(view, 0, self._max_rows, len(self._policies) - 1)]
        while True:
            bucket = buckets.pop()
            view.table = self._policies[bucket].table
            decision = self._policies[bucket].decide(view)
            if isinstance(decision, Wait):
                return decision
            if decision.rows:
                runs = _runs(view, decision.shed, decision.rows, bucket)
                if not runs:  # a longer row follows on those that are given up: that is another decision
                    return replace(decision, rows=0)
                best = runs[-1] if decision.shed else self._cheapest(runs, decision.subnet, view.overhead_ns)
                if decision.shed or best.bucket == bucket:
                    return replace(decision, rows=best.rows)
                buckets = [run.bucket for run in runs if run.bucket <= best.bucket]
            elif not buckets:
                return decision

    def _cheapest(self, runs: Sequence[_Run], subnet: int, overhead_ns: int) -> _Run:
        """The run with the least time per row at a subnet."""

        def row_ns(run: _Run) -> float:
            return (self._policies[run.bucket].table.latency_ns[subnet][run.rows] + overhead_ns) / run.rows

        return min(runs, key=row_ns)


def _runs(view: SchedulerView, start: int, max_rows: int, widest: int) -> list[_Run]:
    """All ends of batches of the requests from a position on, in rising order: up to some rows, up to some bucket."""
    runs: list[_Run] = []
    rows, bucket = 0, 0
    for request in islice(view.queue, start, None):
        if rows + request.rows > max_rows or request.bucket > widest:
            break
        if rows and request.bucket > bucket:
            runs.append(_Run(bucket, rows))
        rows += request.rows
        bucket = max(bucket, request.bucket)
    if rows:
        runs.append(_Run(bucket, rows))
    return runs


def decide_by(policies: Sequence[Policy]) -> Callable[[SchedulerView], Decision | Wait]:
    """See `Policy.decide`; ``policies`` is as for `ByBucket`, which is not needed for a single one."""
    return ByBucket(policies).decide if len(policies) > 1 else policies[0].decide


def create_policies(name: str, profile: Profile, timeout_action: TimeoutAction = "reject") -> tuple[Policy, ...]:
    """The policy of a name for each of `Profile.buckets`; one for the longest rows alone if it is not `by_bucket`.

    Raises:
        ConfigError: as `create_policy`.
    """
    policies = tuple(create_policy(name, LatencyTable(bucket), timeout_action) for bucket in profile.repaired().buckets)
    return policies if policies[-1].by_bucket else policies[-1:]
