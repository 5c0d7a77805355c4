import pytest
from scipy import stats

from superserve.intervals import Estimate, estimate, paired, wilson95


@pytest.mark.parametrize("count", [2, 3, 10, 31])
def test_interval_is_that_of_students_t(count: int) -> None:
    values = [1.0 + 0.1 * number**1.5 for number in range(count)]
    result = estimate(values)
    low, high = stats.t.interval(0.95, count - 1, sum(values) / count, stats.sem(values))
    assert result.low == pytest.approx(low, rel=1e-3)
    assert result.high == pytest.approx(high, rel=1e-3)


def test_many_values_use_the_normal_distribution() -> None:
    values = [float(number % 7) for number in range(400)]
    assert estimate(values).half_width == pytest.approx(stats.norm.ppf(0.975) * stats.sem(values))


def test_one_value_has_no_interval() -> None:
    assert estimate([3.0]) == Estimate(3.0)
    assert estimate([3.0]).low == estimate([3.0]).high == 3.0
    with pytest.raises(ValueError, match="no mean"):
        estimate([])


def test_pairs_cancel_what_they_share() -> None:
    noise = [5.0, -3.0, 10.0, 0.0]
    difference = paired([1.0 + one for one in noise], noise)
    assert difference.mean == pytest.approx(1.0)
    assert difference.half_width == pytest.approx(0.0, abs=1e-12)


def test_text_has_the_digits_asked_for() -> None:
    assert Estimate(99.987, 0.0123).text(2) == "99.99 ± 0.01"
    assert Estimate(0.5).text(4) == "0.5000"


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    # Newcombe, "Two-sided confidence intervals for the single proportion", 1998, table I (method 3).
    [(81, 263, 25.53, 36.62), (15, 148, 6.24, 16.05), (0, 20, 0.0, 16.11), (1, 29, 0.61, 17.18)],
)
def test_wilson_against_published_values(correct: int, n: int, low: float, high: float) -> None:
    assert wilson95(correct, n) == pytest.approx((low, high), abs=0.01)
