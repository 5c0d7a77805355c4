from superserve.experiments.verdict import check, summary
from support.rows import make_row

LIVE = (
    make_row("slackfit", 0.995, 90.0),
    make_row("fixed:large", 0.3, 95.0),
    make_row("fixed:middle", 0.7, 91.0),
    make_row("fixed:small", 1.0, 80.0),
)


def verdicts(*live: "tuple[str, float, float | None]") -> list[bool]:
    rows = [make_row(*row) for row in live]
    return [one.holds for one in check(rows, rows)]


def test_the_papers_picture_passes_every_check() -> None:
    checks = check(LIVE, LIVE)
    assert all(one.holds for one in checks)
    # Attainment, against smallest, against the two that are as accurate or more, prediction.
    assert len(checks) == 5
    assert "fixed:large" in checks[2].claim
    assert "fixed:middle" in checks[3].claim


def test_each_claim_can_fail() -> None:
    large, middle, small = ("fixed:l", 0.3, 95.0), ("fixed:m", 0.7, 91.0), ("fixed:s", 1.0, 80.0)
    assert verdicts(("slackfit", 0.98, 90.0), large, middle, ("fixed:s", 0.98, 80.0)) == [False, True, True, True, True]
    assert verdicts(("slackfit", 1.0, 79.0), large, middle, small) == [True, False, True, True, False, True]
    assert verdicts(("slackfit", 0.99, 90.0), large, middle, ("fixed:s", 1.0, 80.0))[1]
    assert not verdicts(("slackfit", 0.989, 90.0), large, middle, ("fixed:s", 1.0, 80.0))[1]
    assert verdicts(("slackfit", 0.995, 90.0), large, ("fixed:m", 0.999, 90.5), small)[3] is False


def test_only_fixed_subnets_of_about_equal_or_higher_accuracy_are_compared() -> None:
    inaccurate = ("fixed:m", 1.0, 89.4)
    assert len(verdicts(("slackfit", 0.995, 90.0), ("fixed:l", 0.3, 95.0), inaccurate, ("fixed:s", 1.0, 80.0))) == 4
    about_equal = ("fixed:m", 1.0, 89.6)
    held = verdicts(("slackfit", 0.995, 90.0), ("fixed:l", 0.3, 95.0), about_equal, ("fixed:s", 1.0, 80.0))
    assert held == [True, True, True, False, True]


def test_prediction_fails_if_any_policy_is_off_and_says_by_how_much() -> None:
    simulated = [*LIVE[:2], make_row("fixed:middle", 0.76, 91.0), LIVE[3]]
    last = check(LIVE, simulated)[-1]
    assert not last.holds
    assert "fixed:middle -0.0600" in last.figures
    simulated[2] = make_row("fixed:middle", 0.745, 91.0)
    assert check(LIVE, simulated)[-1].holds


def test_a_subnet_that_served_nothing_has_no_accuracy_and_breaks_nothing() -> None:
    rows = (LIVE[0], make_row("fixed:large", 0.0, None), *LIVE[2:])
    assert all(one.holds for one in check(rows, rows))
    assert "nothing in time" in summary(rows)[1]


def test_summary_has_a_sentence_per_fixed_subnet() -> None:
    lines = summary(LIVE)
    assert lines[0] == "slackfit answered 99.5 % of the requests in time, at 90.00 % accuracy."
    assert lines[1].endswith("3.32 times as many in time, 5.00 points less accurate.")
    assert lines[3].endswith("about as many in time, 10.00 points more accurate.")
