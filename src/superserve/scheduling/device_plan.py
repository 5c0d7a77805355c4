"""What batches take on the workers of one device."""

from collections.abc import Sequence

from superserve.scheduling.admission import BatchTimes
from superserve.scheduling.buckets import decide_by
from superserve.scheduling.overhead import OverheadEstimate
from superserve.scheduling.policy import Policy
from superserve.scheduling.workers import Fleet


class DevicePlan:
    """The workers of one device, of a model that is served on several, and how their batches are planned.

    Args:
        policies: the policy with the tables of this device, by bucket.
        overhead_ns: dispatch overhead until one has been observed.
        fleet: the workers.

    Attributes:
        tables: by bucket.
        decide: see `Policy.decide`; the view's table is this device's when it is called.
        overhead: of its batches alone. Workers on other hosts cost more of it than those beside the router do.
        row_ns: time per row of the most rows per time, dispatch included, as profiled: what its worker time is worth.
        times: the most efficient batches. Where workers overlap batches, without the dispatch (see `Admission`).
    """

    def __init__(self, policies: Sequence[Policy], overhead_ns: int, fleet: Fleet) -> None:
        self.tables = tuple(policy.table for policy in policies)
        self.decide = decide_by(policies)
        self.overhead = OverheadEstimate(overhead_ns)
        self.fleet = fleet
        longest = self.tables[-1]
        fastest = longest.latency_ns[policies[-1].subnets[0]]
        self.row_ns = min((fastest[rows] + overhead_ns) / rows for rows in longest.batches)
        self.times = BatchTimes.of(self.tables)

    def price(self, drift: float) -> None:
        """Batches take so many times what is profiled; the dispatch takes what has been observed."""
        if self.fleet.overlaps:
            self.times.price(drift, 0, 0)
        else:
            self.times.price(drift, self.overhead.typical_ns, self.overhead.planned_ns)

    @property
    def hidden_ns(self) -> int:
        """What passes of the dispatch of a batch while its worker runs the one before."""
        return self.overhead.planned_ns if self.fleet.overlaps else 0

    def alone_ns(self, subnet: int, rows: int, bucket: int, drift: float) -> int:
        """What a batch is expected to take at most, dispatch included."""
        return self.overhead.planned_ns + self.run_ns(subnet, rows, bucket, drift)

    def run_ns(self, subnet: int, rows: int, bucket: int, drift: float) -> int:
        """The same in the worker alone."""
        return round(self.tables[bucket].latency_ns[subnet][rows] * drift)

    def typical_ns(self, subnet: int, rows: int, bucket: int, drift: float) -> int:
        """What it typically takes, dispatch included."""
        return self.overhead.typical_ns + round(self.tables[bucket].typical_ns[subnet][rows] * drift)
