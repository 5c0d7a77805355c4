import pytest
from hypothesis import given
from hypothesis import strategies as st

from superserve.frontend.dashboard.totals import quantile

BOUNDS = (10, 20, 40, 80)


@pytest.mark.parametrize(
    ("counts", "part", "expected"),
    [
        ((4, 0, 0, 0, 0), 0.5, 5.0),  # half of the first bucket
        ((0, 0, 8, 0, 0), 0.25, 25.0),
        ((1, 1, 1, 1, 0), 0.99, 78.4),
        ((0, 0, 0, 0, 3), 0.5, 80),  # nothing is known above the last bound
        ((2, 0, 0, 2, 0), 0.5, 10.0),  # an empty bucket is skipped
        ((0, 0, 0, 0, 0), 0.5, None),
    ],
)
def test_quantiles_are_prometheus_ones(counts: tuple[int, ...], part: float, expected: float | None) -> None:
    """As ``histogram_quantile`` gives them; worked out by hand."""
    assert quantile(BOUNDS, counts, part) == pytest.approx(expected)


@given(st.lists(st.integers(1, 80), min_size=1, max_size=50), st.floats(0.01, 1.0))
def test_a_quantile_is_in_the_bucket_of_the_true_one(values: list[int], part: float) -> None:
    """The oracle sorts."""
    counts = [sum(low < value <= high for value in values) for low, high in zip((0, *BOUNDS), BOUNDS, strict=False)]
    told = quantile(BOUNDS, [*counts, 0], part)
    assert told is not None
    rank = next(rank for rank, upto in enumerate(range(1, len(values) + 1)) if upto >= part * len(values))
    true = sorted(values)[rank]
    bucket = next(number for number, bound in enumerate(BOUNDS) if true <= bound)
    assert (0, *BOUNDS)[bucket] <= told <= BOUNDS[bucket]
