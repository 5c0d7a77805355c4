from superserve.training.properties import check

BATCHES = (1, 4, 16)


def holding(*rows: tuple[float, ...]) -> tuple[bool, ...]:
    return tuple(one.holds for one in check(BATCHES, rows))


def test_a_front_as_the_paper_has_it() -> None:
    """16 rows of the smallest cost what one of the largest does."""
    assert holding((1, 2, 5), (2, 4, 10), (5, 15, 40)) == (True, True, True)


def test_each_property_fails_alone() -> None:
    assert holding((2, 1, 5), (3, 4, 10), (5, 15, 40)) == (False, True, True)
    assert holding((1, 4, 5), (2, 3, 10), (5, 15, 40)) == (True, False, True)
    assert holding((1, 2, 5), (10, 20, 60), (20, 40, 90)) == (True, True, False)


def test_says_where() -> None:
    batch, accuracy, trade = check(BATCHES, [(2, 1, 5), (3, 0.5, 10)])
    assert batch.found == "falls 2 times, first for s0 from batch 1 to 4"
    assert accuracy.found == "falls 1 times, first for s0 to s1 at batch 4"
    assert trade.found == "5.00 ms at batch 16; the most accurate at batch 1 is 1.67 times away"
