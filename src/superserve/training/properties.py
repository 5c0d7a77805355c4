"""What a scheduler relies on in a front, checked on measured latencies.

P1 to P3 of the SuperServe paper, section 4.2.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import msgspec

#: P3 holds if some small batch of the largest subnet costs as much as the large batch of the smallest, within this
#: factor.
_ABOUT: Final = 1.5


class Property(msgspec.Struct, frozen=True, kw_only=True):
    """One property, and what was found."""

    name: str
    claim: str
    holds: bool
    found: str


def check(batches: Sequence[int], latencies_ms: Sequence[Sequence[float]]) -> tuple[Property, ...]:
    """Check P1 to P3.

    Args:
        batches: batch sizes, rising.
        latencies_ms: one row per subnet, from the least to the most accurate; one latency per batch size.
    """
    return (
        _rises_with_batch(batches, latencies_ms),
        _rises_with_accuracy(batches, latencies_ms),
        _trades(batches, latencies_ms),
    )


def _rises_with_batch(batches: Sequence[int], latencies_ms: Sequence[Sequence[float]]) -> Property:
    falls = [
        f"s{number} from batch {batches[at]} to {batches[at + 1]}"
        for number, row in enumerate(latencies_ms)
        for at, (less, more) in enumerate(pairwise(row))
        if more < less
    ]
    return _monotone("P1", "latency rises with batch size", falls)


def _rises_with_accuracy(batches: Sequence[int], latencies_ms: Sequence[Sequence[float]]) -> Property:
    falls = [
        f"s{number} to s{number + 1} at batch {batch}"
        for number, (below, above) in enumerate(pairwise(latencies_ms))
        for batch, less, more in zip(batches, below, above, strict=True)
        if more < less
    ]
    return _monotone("P2", "latency rises with accuracy along the front", falls)


def _monotone(name: str, claim: str, falls: Sequence[str]) -> Property:
    found = f"falls {len(falls)} times, first for {falls[0]}" if falls else "everywhere"
    return Property(name=name, claim=claim, holds=not falls, found=found)


def _trades(batches: Sequence[int], latencies_ms: Sequence[Sequence[float]]) -> Property:
    small = latencies_ms[0][-1]
    ratio, batch = min(
        (max(small / large, large / small), batch)
        for batch, large in zip(batches, latencies_ms[-1], strict=True)
        if batch < batches[-1] or len(batches) == 1
    )
    return Property(
        name="P3",
        claim="the least accurate subnet at a large batch costs about as much as the most accurate at a small one",
        holds=ratio <= _ABOUT,
        found=f"{small:.2f} ms at batch {batches[-1]}; the most accurate at batch {batch} is {ratio:.2f} times away",
    )
