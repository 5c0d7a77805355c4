from superserve.frontend.twice import Twice


def test_what_comes_again_is_told_from_what_does_not() -> None:
    """Whatever came in between, as long as that was not too much."""
    twice = Twice()
    assert [twice.seen(key) for key in (b"a", b"b", b"a", (b"a", None), (b"a", None), b"b")] == [
        False,
        False,
        True,
        False,
        True,
        True,
    ]


def test_what_came_once_is_forgotten_after_a_while() -> None:
    """Or it would fill the memory."""
    twice = Twice()
    for number in range(5000):
        assert not twice.seen(number)
    assert not twice.seen(0)
