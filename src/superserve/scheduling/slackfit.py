"""SlackFit, the paper's policy."""

from bisect import bisect_left
from collections.abc import Sequence
from typing import ClassVar, Final, NamedTuple

from superserve.errors import ConfigError
from superserve.profile import LatencyTable
from superserve.request import Request
from superserve.scheduling.policy import HeadPolicy, Placement, TimeoutAction, register_policy

#: The paper does not give the number. Many buckets expose small batches of big subnets, whose choice under load
#: makes every later slack smaller; 8 are safe on the paper's loads (docs/architecture.md, "SlackFit").
BUCKETS: Final = 8


class _Entry(NamedTuple):
    latency_ns: int
    placement: Placement


class SlackFit(HeadPolicy):
    """SuperServe (NSDI 2025), section 4.2 and appendix A.5: fit the batch into the head's slack.

    Offline, the profiled latencies between the fastest and the slowest cell are cut into equal ranges, and each range
    remembers the (subnet, batch) inside it with the largest batch, then the highest accuracy, then the lowest
    latency (the appendix variant: a tuple's latency lies inside its bucket). Online, the head's slack picks the
    remembered tuple with the largest latency below it.

    The paper leaves open what happens below the smallest remembered latency. Here, if everything that waits fits the
    largest batch of the fastest subnet that still meets the head's deadline, that batch is run; otherwise the head is
    given up, because a small batch while others wait makes every later slack smaller, too.
    """

    name: ClassVar[str] = "slackfit"

    def __init__(self, table: LatencyTable, timeout_action: TimeoutAction = "reject", buckets: int = BUCKETS) -> None:
        super().__init__(table, timeout_action)
        self._buckets = buckets
        self._entries_by_fastest: dict[int, list[_Entry]] = {}

    def place(self, head: Request, slack_ns: int, waiting_rows: int) -> Placement | None:
        """See `HeadPolicy.place`."""
        usable = self.usable(head.min_accuracy)
        entries = self._entries(usable)
        found = bisect_left(entries, slack_ns, key=_latency)
        if found == 0:
            rows = self.table.largest_batch(usable[0], slack_ns)
            return Placement(usable[0], rows) if rows >= waiting_rows else None
        placement = entries[found - 1].placement
        if placement.rows >= head.rows:
            return placement
        # The remembered batch does not hold the head, and requests are never split.
        subnet = self.table.most_accurate(head.rows, slack_ns, usable)
        return None if subnet is None else Placement(subnet, self.table.largest_batch(subnet, slack_ns))

    def _entries(self, usable: Sequence[int]) -> list[_Entry]:
        # An accuracy floor leaves a suffix of the subnets, so its fastest one names the table.
        entries = self._entries_by_fastest.get(usable[0])
        if entries is None:
            entries = self._bucket_table(usable)
            self._entries_by_fastest[usable[0]] = entries
        return entries

    def _bucket_table(self, subnets: Sequence[int]) -> list[_Entry]:
        """The remembered tuples in rising order of latency; at most one per bucket."""
        cells = self._cells(subnets)
        lowest, span_ns = cells[0][0], cells[-1][0] - cells[0][0]
        best: dict[int, tuple[int, int, int]] = {}
        for latency_ns, rows, subnet in cells:
            bucket = min(self._buckets - 1, (latency_ns - lowest) * self._buckets // span_ns) if span_ns else 0
            best[bucket] = max(best.get(bucket, (0, 0, 0)), (rows, subnet, -latency_ns))
        return sorted(_Entry(-negated_ns, Placement(subnet, rows)) for rows, subnet, negated_ns in best.values())

    def _cells(self, subnets: Sequence[int]) -> list[tuple[int, int, int]]:
        """Latency, rows and subnet of every tuple, fastest first."""
        return sorted(
            (self.table.latency_ns[subnet][rows], rows, subnet) for subnet in subnets for rows in self.table.batches
        )


class SlackFit42(SlackFit):
    """SlackFit as section 4.2 of the paper says it, where that differs from appendix A.5.

    A bucket has an upper edge only: it remembers the tuple with the largest batch among *all* that are faster than its
    edge, then the highest accuracy. Above the latency of the fastest subnet's largest batch every bucket thus
    remembers a full batch, which makes it `MaxBatch` on a slack rounded down to buckets.
    """

    name: ClassVar[str] = "slackfit-42"

    def _bucket_table(self, subnets: Sequence[int]) -> list[_Entry]:
        cells = self._cells(subnets)
        lowest, span_ns = cells[0][0], cells[-1][0] - cells[0][0]
        entries: set[_Entry] = set()
        best, number = (0, 0, 0), 0
        for bucket in range(1, self._buckets + 1):
            # The slowest tuple lies on the last edge; it belongs to the last bucket.
            while number < len(cells) and (cells[number][0] - lowest) * self._buckets <= bucket * span_ns - (
                bucket < self._buckets
            ):
                latency_ns, rows, subnet = cells[number]
                best = max(best, (rows, subnet, -latency_ns))
                number += 1
            entries.add(_Entry(-best[2], Placement(best[1], best[0])))
        return sorted(entries)


def _latency(entry: _Entry) -> int:
    return entry.latency_ns


def _register(kind: type[SlackFit]) -> None:
    def create(table: LatencyTable, timeout_action: TimeoutAction, argument: str) -> SlackFit:
        if not argument:
            return kind(table, timeout_action)
        if not argument.isdecimal() or int(argument) < 1:
            raise ConfigError(
                f"policy {kind.name}:{argument}: the part after the colon is the number of buckets, at least 1"
            )
        return kind(table, timeout_action, int(argument))

    register_policy(kind.name, create)


_register(SlackFit)
_register(SlackFit42)
