"""Numbers in order, held against sorting them anew."""

from hypothesis import given
from hypothesis import strategies as st

from superserve.scheduling.ranking import Ranking

#: (worker, its number from now on; None: it has none any more). Few numbers, so that many are equal.
CHANGES = st.lists(st.tuples(st.integers(0, 6), st.none() | st.sampled_from([0.5, 1.0, 1.5, 2.0])), max_size=60)


@given(CHANGES, st.sampled_from([0.0, 1.0, 1.2, 2.0]))
def test_median_and_largest_are_those_of_the_sorted_numbers(
    changes: list[tuple[int, float | None]], least: float
) -> None:
    """After any changes, also of workers that are not there."""
    ranking, plain = Ranking(), dict[int, float]()
    for worker, value in changes:
        if value is None:
            ranking.drop(worker)
            plain.pop(worker, None)
        else:
            ranking.put(worker, value)
            plain[worker] = value
        values = sorted(plain.values())
        assert ranking.lower_median(7.0) == (values[(len(values) - 1) // 2] if values else 7.0)
        assert list(ranking.above(least)) == sorted((value, one) for one, value in plain.items() if value > least)
