"""Efficient batches against trying all of them."""

import hypothesis.strategies as st
from hypothesis import given

from superserve.profile import LatencyTable, Profile
from superserve.scheduling.efficient import Batch, EfficientBatches
from support.profiles import profiles


@given(profiles(), st.integers(0, 50_000_000), st.sampled_from([1.0, 1.5]), st.integers(0, 2_000_000))
def test_serves_the_most_rows_per_time(profile: Profile, span_ns: int, drift: float, overhead_ns: int) -> None:
    """Among those that fit; also after prices have changed."""
    table = LatencyTable(profile)
    batches = EfficientBatches(table.batches, table.latency_ns)
    batches.best(0, span_ns)
    batches.price(drift, overhead_ns)
    for subnet, row in enumerate(table.latency_ns):
        sizes = [Batch(size, round(row[size] * drift) + overhead_ns) for size in table.batches]
        fitting = [batch for batch in sizes if batch.time_ns < span_ns] or sizes[:1]
        assert batches.best(subnet, span_ns) == min(fitting, key=lambda batch: (batch.time_ns / batch.rows, batch.rows))
