"""What a running server has observed of its own dispatch."""

import asyncio
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from superserve.clock import NS_PER_S, NS_PER_US
from superserve.profile import Profile

_TIMEOUT_S: Final = 10.0


@dataclass(frozen=True)
class ObservedOverhead:
    """Of a batch's dispatch, in microseconds: what plans take off every slack by now, and what it took on average."""

    planned_us: float
    mean_us: float


def with_observed(profile: Profile, overhead: ObservedOverhead | None) -> Profile:
    """A profile to predict with: the dispatch overhead is that of a run under load, if there was one.

    What the profiler measures has no clients to answer: 0.15 ms, where a loaded router takes 0.65.
    """
    if overhead is None:
        return profile
    return msgspec.structs.replace(
        profile,
        dispatch_overhead_us=overhead.planned_us,
        dispatch_overhead_mean_us=overhead.mean_us,
        dispatch_overhead_p99_us=None,
    )


async def observed_overhead(metrics_url: str) -> ObservedOverhead | None:
    """What a server of one model shows at its metrics' address; None before its first batch.

    Raises:
        OSError: if it cannot be read.
    """
    return overhead_in(await page_of(metrics_url))


def overhead_in(page: str) -> ObservedOverhead | None:
    """The same in what was read there."""
    found = _samples(page)
    batches = found["superserve_overhead_duration_seconds_count"]
    if not batches:
        return None
    to_us = NS_PER_S / NS_PER_US
    return ObservedOverhead(
        planned_us=found["superserve_planned_overhead_seconds"] * to_us,
        mean_us=found["superserve_overhead_duration_seconds_sum"] / batches * to_us,
    )


async def page_of(metrics_url: str) -> str:
    """What stands at a server's address for metrics.

    Raises:
        OSError: if it cannot be read.
    """
    return await asyncio.to_thread(_read, metrics_url)


async def metrics_of(metrics_url: str) -> Sequence[Sample]:
    """Everything that a server counts: name, labels, value.

    Raises:
        OSError: if it cannot be read.
    """
    page = await page_of(metrics_url)
    return [sample for family in text_string_to_metric_families(page) for sample in family.samples]


def _read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as response:  # noqa: S310  (of a server that we started)
        content: bytes = response.read()
    return content.decode()


def _samples(page: str) -> Mapping[str, float]:
    return {sample.name: sample.value for family in text_string_to_metric_families(page) for sample in family.samples}
