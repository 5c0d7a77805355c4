"""How many samples of each cell to take, and in which order."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]

#: A share that holds a sample but for rounding errors holds it.
_ROUNDING: Final = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How long to measure, start-up excluded.

    ``seconds`` is what the samples may take altogether, as long as every cell gets ``least`` of them; none gets more
    than ``most``. ``quiet_share`` of the time goes to samples on a quiet machine, where only medians are wanted: at
    most ``quiet_most`` of each cell. Cells are visited in ``rounds``.
    """

    seconds: float
    least: int
    most: int
    rounds: int
    quiet_share: float = 0.2
    quiet_most: int = 50


#: About 10 s in all for a small model. Few samples of a large cell suffice: see ``estimate.py``.
QUICK: Final = Effort(seconds=5.5, least=6, most=60, rounds=6)

FULL: Final = Effort(seconds=70.0, least=20, most=600, rounds=20)


def allocate(costs_ns: npt.NDArray[np.float64], budget_ns: float, least: Counts | int, most: Counts | int) -> Counts:
    """Divide a time budget among cells, as equally as the limits on the number of samples allow.

    Args:
        costs_ns: time of one sample of each cell.
        budget_ns: time for all samples; exceeded only if ``least`` samples of each cell take longer.
        least: of each cell (or of one and all), at least this many samples.
        most: and at most this many.

    Returns:
        Samples per cell.
    """

    def samples(share_ns: float) -> Counts:
        return np.clip((share_ns / costs_ns + _ROUNDING).astype(np.int64), least, most)

    low, high = 0.0, max(0.0, budget_ns)
    for _ in range(40):  # bisection: the time that every cell may take, unless a limit says otherwise
        middle = (low + high) / 2
        if float(samples(middle) @ costs_ns) <= budget_ns:
            low = middle
        else:
            high = middle
    return samples(low)


def next_round(
    taken: Counts,
    costs_ns: npt.NDArray[np.float64],
    *,
    budget_ns: float,
    rounds_left: int,
    least: int,
    most: int,
) -> Counts:
    """How many samples of each cell one round takes, given what earlier rounds took of samples and time.

    Args:
        taken: samples of each cell so far.
        costs_ns: time of one sample of each cell, as known by now.
        budget_ns: time left for all rounds.
        rounds_left: this one included.
        least: samples that each cell is to have at the end, whatever that takes.
        most: samples that none is to exceed.
    """
    missing = -(-np.maximum(least - taken, 0) // rounds_left)
    room = -(-np.maximum(most - taken, 0) // rounds_left)
    return allocate(costs_ns, budget_ns / rounds_left, missing, room)


def shuffled(counts: Counts, rng: np.random.Generator) -> list[int]:
    """Each cell's index as often as its count says, in random order, so that drift hits all cells alike."""
    order: list[int] = rng.permutation(np.repeat(np.arange(len(counts)), counts)).tolist()
    return order
