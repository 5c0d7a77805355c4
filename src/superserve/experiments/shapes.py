"""Synthetic profiles: how latency grows with batch size and subnet on different kinds of device."""

from collections.abc import Callable
from typing import Final

import numpy as np

from superserve.profile import Device, Profile, SubnetProfile

BATCHES: Final = (1, 2, 4, 8, 16)

#: Milliseconds of a batch, by (share, rows); share runs from 0 for the fastest subnet to 1 for the most accurate.
_LATENCY_MS: Final[dict[str, Callable[[float, int], float]]] = {
    # A GPU: much of a batch is the launch of its kernels, so that batch 16 of the fastest costs half as much again as
    # batch 1. The slowest cell is about R-PROFILE's.
    "gpu": lambda share, rows: (3.0 + 6.0 * share) + (0.1 + 1.2 * share) * rows,
    # A large model on one CPU core: measured gains of batching are 0.9-1.1 there, so none at all.
    "cpu": lambda share, rows: (2.0 + 14.0 * share) * rows,
    # A small network on one CPU core, as the bundled digits model: some gain, a span of ten between subnets.
    "digits": lambda share, rows: (0.7 + 3.5 * share) + (0.35 + 3.9 * share) * rows,
    # Cost grows with the square of what accuracy gains: the last points are dear.
    "steep": lambda share, rows: (0.3 + share) + (0.2 + 4.0 * share**2) * rows,
}

R_PROFILE: Final = "r-profile"
SHAPES: Final = (*_LATENCY_MS, R_PROFILE)


def synthetic_profile(shape: str, subnets: int) -> Profile:
    """A profile of a shape with 2 to 1,000 Pareto subnets, without jitter or overhead.

    ``r-profile`` is the bundled reconstruction, interpolated in accuracy. The accuracies of the others run from 60 to
    80 %, in steps that get smaller (``steep``: 70 to 95 % in equal steps).
    """
    shares = np.linspace(0.0, 1.0, subnets).tolist()
    if shape == R_PROFILE:
        return _interpolated(shares)
    latency_ms = _LATENCY_MS[shape]
    rows = [[latency_ms(share, batch) for batch in BATCHES] for share in shares]
    if shape == "steep":
        return make_profile(shape, [70.0 + 25.0 * share for share in shares], rows)
    return make_profile(shape, [60.0 + 20.0 * (1.0 - (1.0 - share) ** 2) for share in shares], rows)


def make_profile(name: str, accuracies: list[float], latency_ms: list[list[float]]) -> Profile:
    """A profile of made-up latencies, the same at every quantile; ``latency_ms[subnet][batch]`` for `BATCHES`."""
    entries = []
    for number, (accuracy, row) in enumerate(zip(accuracies, latency_ms, strict=True)):
        row_us = tuple(1000.0 * cell for cell in row)
        entries.append(SubnetProfile(id=f"n{number}", accuracy=accuracy, p50_us=row_us, p95_us=row_us, p99_us=row_us))
    device = Device(name=f"synthetic-{name}", kind="fixture", threads=1, engine="none", dtype="none", torch="none")
    return Profile(
        device=device, model_hash="synthetic", batches=BATCHES, dispatch_overhead_us=0.0, subnets=tuple(entries)
    )


def _interpolated(shares: list[float]) -> Profile:
    known = Profile.load(R_PROFILE)
    if len(shares) == len(known.subnets):
        return known
    accuracies = [subnet.accuracy for subnet in known.subnets]
    wanted = [accuracies[0] + share * (accuracies[-1] - accuracies[0]) for share in shares]
    columns = np.array([subnet.p95_us for subnet in known.subnets]).T / 1000.0
    rows = np.array([np.interp(wanted, accuracies, column) for column in columns]).T
    return make_profile(R_PROFILE, wanted, rows.tolist())
