"""What a demo's rows show, in words: the claims of the paper, each checked."""

from collections.abc import Sequence
from typing import Final

import msgspec

from superserve.metrics import ResultRow

#: Attainment that the elastic policy has to reach.
MIN_ATTAINMENT: Final = 0.99
#: Attainments no further apart are "about equal".
ABOUT_EQUAL_ATTAINMENT: Final = 0.01
#: Accuracies (points) no further apart are "about equal".
ABOUT_EQUAL_ACCURACY: Final = 0.5
#: How far simulated and live attainment may lie apart.
MAX_DIFFERENCE: Final = 0.05


class Check(msgspec.Struct, frozen=True):
    """One claim, whether the rows bear it out, and the figures."""

    claim: str
    holds: bool
    figures: str


def check(live: Sequence[ResultRow], simulated: Sequence[ResultRow]) -> tuple[Check, ...]:
    """Check the claims on a demo's rows: the elastic policy first, then fixed subnets from largest to smallest."""
    elastic, *fixed = live
    return (
        _attains(elastic),
        _beats_smallest(elastic, fixed[-1]),
        *(_beats_accurate(elastic, row) for row in fixed if _as_accurate(row, elastic)),
        _predicted(live, simulated),
    )


def summary(live: Sequence[ResultRow]) -> list[str]:
    """A sentence for each fixed subnet: what the elastic policy got against it."""
    elastic, *fixed = live
    lines = [f"{elastic.policy} answered {_share(elastic)} of the requests in time, at {_accuracy(elastic)} accuracy."]
    for row in fixed:
        words = f"Against {row.policy} ({_share(row)} in time at {_accuracy(row)}): "
        lines.append(words + _attainment_words(elastic, row) + ", " + _accuracy_words(elastic, row) + ".")
    return lines


def _attains(row: ResultRow) -> Check:
    return Check(
        f"{row.policy} answers at least {MIN_ATTAINMENT:.0%} of the requests in time",
        row.slo_attainment >= MIN_ATTAINMENT,
        f"{row.slo_attainment:.4f}",
    )


def _beats_smallest(elastic: ResultRow, smallest: ResultRow) -> Check:
    as_often = elastic.slo_attainment >= smallest.slo_attainment - ABOUT_EQUAL_ATTAINMENT
    return Check(
        f"{elastic.policy} is more accurate than {smallest.policy} at about equal attainment",
        as_often and _value(elastic) > _value(smallest),
        f"{_accuracy(elastic)} against {_accuracy(smallest)}, attainment {elastic.slo_attainment:.4f} against "
        f"{smallest.slo_attainment:.4f}",
    )


def _as_accurate(row: ResultRow, elastic: ResultRow) -> bool:
    """Whether a fixed subnet is about as accurate as the elastic policy, or more; one that served nothing is."""
    return row.mean_serving_accuracy is None or row.mean_serving_accuracy >= _value(elastic) - ABOUT_EQUAL_ACCURACY


def _beats_accurate(elastic: ResultRow, row: ResultRow) -> Check:
    return Check(
        f"{elastic.policy} attains more than {row.policy}, which is about as accurate or more",
        elastic.slo_attainment > row.slo_attainment,
        f"{elastic.slo_attainment:.4f} against {row.slo_attainment:.4f} at {_accuracy(row)}",
    )


def _predicted(live: Sequence[ResultRow], simulated: Sequence[ResultRow]) -> Check:
    differences = [one.slo_attainment - other.slo_attainment for one, other in zip(live, simulated, strict=True)]
    return Check(
        f"the simulator predicts each attainment to within {MAX_DIFFERENCE}",
        max(map(abs, differences)) <= MAX_DIFFERENCE,
        "live minus simulated: "
        + ", ".join(f"{row.policy} {difference:+.4f}" for row, difference in zip(live, differences, strict=True)),
    )


def _value(row: ResultRow) -> float:
    return row.mean_serving_accuracy or 0.0


def _share(row: ResultRow) -> str:
    return f"{100 * row.slo_attainment:.1f} %"


def _accuracy(row: ResultRow) -> str:
    return "none" if row.mean_serving_accuracy is None else f"{row.mean_serving_accuracy:.2f} %"


def _attainment_words(elastic: ResultRow, row: ResultRow) -> str:
    if abs(elastic.slo_attainment - row.slo_attainment) <= ABOUT_EQUAL_ATTAINMENT:
        return "about as many in time"
    if row.slo_attainment == 0:
        return "which answered nothing in time"
    ratio = elastic.slo_attainment / row.slo_attainment
    return f"{ratio:.2f} times as many in time"


def _accuracy_words(elastic: ResultRow, row: ResultRow) -> str:
    if row.mean_serving_accuracy is None or elastic.mean_serving_accuracy is None:
        return "with no accuracy to compare"
    gain = elastic.mean_serving_accuracy - row.mean_serving_accuracy
    return f"{abs(gain):.2f} points {'more' if gain >= 0 else 'less'} accurate"
