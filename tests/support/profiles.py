"""Profiles and event sequences for hypothesis."""

import hypothesis.strategies as st
import msgspec

from superserve.model_folder import ModelFolder
from superserve.profile import QUANTILES, Bucket, Device, Profile, SubnetProfile

DEVICE = Device(name="test", kind="fixture", threads=1, engine="none", dtype="float32", torch="none")


def make_profile(latencies_ms: list[list[float]], batches: tuple[int, ...], overhead_us: float = 0.0) -> Profile:
    """A profile with accuracies 70, 71, ... and the same latency at each quantile."""
    subnets = []
    for number, row in enumerate(latencies_ms):
        row_us = tuple(1000.0 * value for value in row)
        subnets.append(
            SubnetProfile(id=f"s{number}", accuracy=70.0 + number, p50_us=row_us, p95_us=row_us, p99_us=row_us)
        )
    return Profile(
        device=DEVICE, model_hash="test", batches=batches, dispatch_overhead_us=overhead_us, subnets=tuple(subnets)
    )


def with_shorter(profile: Profile, *buckets: tuple[int, float, float]) -> Profile:
    """The same for a text model: of each shorter length (pieces, share of the texts, its times over the longest's)."""

    sizes = len(profile.batches)
    shorter = tuple(
        Bucket(
            length=length,
            share=share,
            subnets=tuple(with_factors(subnet, [factor] * sizes) for subnet in profile.subnets),
        )
        for length, share, factor in buckets
    )
    return msgspec.structs.replace(profile, shorter=shorter)


@st.composite
def bucketed_profiles(draw: st.DrawFn, plain: st.SearchStrategy[Profile]) -> Profile:
    """Profiles of up to three buckets; a shorter text may have been measured to take longer (tables repair it)."""
    factors = draw(st.lists(st.sampled_from([0.25, 0.5, 1.0, 1.25]), max_size=2))
    return with_shorter(draw(plain), *((8 * number, 0.3, factor) for number, factor in enumerate(factors, 1)))


@st.composite
def several_devices(
    draw: st.DrawFn, plain: st.SearchStrategy[Profile], least: int = 2, most: int = 3
) -> tuple[Profile, ...]:
    """Profiles of one model on several devices: each cell takes another while, none need be the fastest in all."""
    first = draw(plain)
    found = [first]
    for _ in range(draw(st.integers(least, most)) - 1):
        factor = st.sampled_from([0.25, 0.5, 1.0, 2.0, 4.0])
        subnets = [with_factors(subnet, [draw(factor) for _ in first.batches]) for subnet in first.subnets]
        found.append(msgspec.structs.replace(first, subnets=tuple(subnets)))
    return tuple(found)


def with_factors(subnet: SubnetProfile, factors: list[float]) -> SubnetProfile:
    """The same with all quantiles of each batch size multiplied."""
    p50, p95, p99 = (
        tuple(factor * value for factor, value in zip(factors, subnet.quantile_us(name), strict=True))
        for name in QUANTILES
    )
    return msgspec.structs.replace(subnet, p50_us=p50, p95_us=p95, p99_us=p99)


@st.composite
def profiles(draw: st.DrawFn) -> Profile:
    """Profiles of 1-5 subnets and 1-5 batch sizes; latencies in any order (tables repair them)."""
    batches = draw(st.sampled_from([(1,), (1, 4), (1, 2, 4, 8, 16), (2, 8)]))
    row = st.lists(st.floats(0.1, 20.0), min_size=len(batches), max_size=len(batches))
    return make_profile(draw(st.lists(row, min_size=1, max_size=5)), batches)


def guessed_profile(folder: ModelFolder) -> Profile:
    """A generous profile of a real model: what matters here is that the model runs, not how fast."""
    batches = tuple(size for size in (1, 2, 4, 8, 16) if size <= folder.config.max_batch_size)
    device = Device(name="guess", kind="cpu", threads=1, engine="eager", dtype="float32", torch="none")
    subnets = []
    for number, record in enumerate(folder.front.subnets):
        row = tuple(1000.0 * (5 + number) * (1 + batch) for batch in batches)
        subnets.append(SubnetProfile(id=record.id, accuracy=record.accuracy, p50_us=row, p95_us=row, p99_us=row))
    return Profile(
        device=device,
        model_hash=folder.model_hash,
        batches=batches,
        dispatch_overhead_us=1000.0,
        subnets=tuple(subnets),
    )
