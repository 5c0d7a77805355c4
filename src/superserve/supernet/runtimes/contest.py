"""Which ways of running a packed subnet are worth keeping, and which of them runs a batch of which size.

Pure: ratios come in, names come out. A ratio is what a batch takes one way over what it takes on the engine behind.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

#: The way that always exists: a packed program, whose weights all workers share.
PROGRAM: Final = "packed"

#: What is gained by less than this is within what two measurements of the same differ by.
WORTH: Final = 0.05

Ratios = Mapping[str, Sequence[float]]
"""By the name of a way, `PROGRAM` among them: its ratio at each batch size."""


def mean_ratio(ratios: Iterable[float]) -> float:
    """What batches take, over all sizes, if each runs packed or on the engine behind, where it is faster."""
    return statistics.mean(min(1.0, ratio) for ratio in ratios)


def worth_keeping(ratios: Ratios) -> tuple[str, ...]:
    """The program; or one runtime, if it is faster by `WORTH` over all sizes; or both, if that is again so much faster.

    Never two runtimes: each takes memory in every worker.
    """
    kept: tuple[str, ...] = (PROGRAM,)
    runtimes = [name for name in ratios if name != PROGRAM]
    for step in ([(name,) for name in runtimes], [(PROGRAM, name) for name in runtimes]):
        best = min(step, key=lambda names: mean_ratio(best_ratios(ratios, names)), default=kept)
        if mean_ratio(best_ratios(ratios, best)) <= (1 - WORTH) * mean_ratio(best_ratios(ratios, kept)):
            kept = best
    return kept


def best_ratios(ratios: Ratios, names: Sequence[str]) -> tuple[float, ...]:
    """At each size, that of the fastest of some ways."""
    return tuple(min(cells) for cells in zip(*(ratios[name] for name in names), strict=True))


def fastest(ratios: Ratios, names: Sequence[str]) -> tuple[str, ...]:
    """At each size, the fastest of some ways; of two that are equal the first."""
    sizes = range(len(ratios[names[0]]))
    return tuple(min(names, key=lambda name, size=size: ratios[name][size]) for size in sizes)  # type: ignore[misc]
