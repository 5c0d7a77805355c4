"""Whether accuracy falls along an axis of a grid of loads, as the paper says."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from superserve.experiments.reproduction.finding import Claim, Verdict
from superserve.experiments.reproduction.lab import Results

#: Rises of accuracy (points) up to this are noise.
TOLERANCE: Final = 0.05


def falls(results: Results, policy: str, chains: Sequence[Sequence[str]], along: str) -> Claim:
    """Accuracy falls along every chain of loads."""
    rises = [
        (_accuracy(results, after, policy) - _accuracy(results, before, policy), before, after)
        for chain in chains
        for before, after in pairwise(chain)
    ]
    worst, before, after = max(rises)
    found = f"rises nowhere by more than {TOLERANCE}" if worst <= TOLERANCE else "rises somewhere"
    return Claim(
        f"accuracy falls with {along}",
        f"{policy}: {found}; most from {before} to {after}: {worst:+.3f} points",
        Verdict.of(worst <= TOLERANCE),
    )


def _accuracy(results: Results, trace: str, policy: str) -> float:
    accuracy = results.accuracy(trace, policy)
    return 0.0 if accuracy is None else accuracy.mean
