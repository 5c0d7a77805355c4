"""How the traffic finds its rate."""

import pytest

from superserve.profiler.traffic_client import next_rate


@pytest.mark.parametrize(
    ("rate", "share", "expected"),
    [
        (1000, 0.4, 1000),
        (1000, 0.5, 800),
        (1000, 0.3, 4000 / 3),
        (1000, 0.9, 500),
        (1000, 0.0, 2000),
        (40_000, 0.1, 50_000),
        (60, 0.9, 50),
    ],
)
def test_the_rate_follows_the_share(rate: float, share: float, expected: float) -> None:
    """In proportion, by a factor of two at most, within limits."""
    assert next_rate(rate, share, 0.4) == pytest.approx(expected)
