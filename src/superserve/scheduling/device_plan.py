"""What batches take on the workers of one device."""

from collections.abc import Sequence

from superserve.scheduling.buckets import decide_by
from superserve.scheduling.efficient import EfficientBatches
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
        typical, planned: the most efficient batches in the times that are usual, and that are planned with; by bucket.
    """

    def __init__(self, policies: Sequence[Policy], overhead_ns: int, fleet: Fleet) -> None:
        self.tables = tuple(policy.table for policy in policies)
        self.decide = decide_by(policies)
        self.overhead = OverheadEstimate(overhead_ns)
        self.fleet = fleet
        longest = self.tables[-1]
        fastest = longest.latency_ns[policies[-1].subnets[0]]
        self.row_ns = min((fastest[rows] + overhead_ns) / rows for rows in longest.batches)
        self.typical = tuple(EfficientBatches(table.batches, table.typical_ns) for table in self.tables)
        self.planned = tuple(EfficientBatches(table.batches, table.latency_ns) for table in self.tables)

    def price(self, drift: float) -> None:
        """Batches take so many times what is profiled; the dispatch takes what has been observed."""
        for times in self.typical:
            times.price(drift, self.overhead.typical_ns)
        for times in self.planned:
            times.price(drift, self.overhead.planned_ns)

    def alone_ns(self, subnet: int, rows: int, bucket: int, drift: float) -> int:
        """What a batch is expected to take at most, dispatch included."""
        return self.overhead.planned_ns + self.run_ns(subnet, rows, bucket, drift)

    def run_ns(self, subnet: int, rows: int, bucket: int, drift: float) -> int:
        """The same in the worker alone."""
        return round(self.tables[bucket].latency_ns[subnet][rows] * drift)

    def typical_ns(self, subnet: int, rows: int, bucket: int, drift: float) -> int:
        """What it typically takes, dispatch included."""
        return self.overhead.typical_ns + round(self.tables[bucket].typical_ns[subnet][rows] * drift)
