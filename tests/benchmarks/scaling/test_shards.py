"""Loads, and what becomes of them in shards."""

import msgspec
import numpy as np
import pytest

from scaling.loads import RATE, Common, Independent, Load, busiest, loads
from scaling.shards import Job, Key, Sharding, hashed, jobs, of_models, work
from superserve.clock import NS_PER_S
from superserve.traces.trace import Trace

WORKERS, SECONDS = 16, 0.25
MADE = loads(None)


def job(load: Load, sharding: Sharding = Sharding.HASH, shards: int = 1) -> Job:
    return Job(load, sharding, shards, 0, WORKERS, SECONDS)


@pytest.mark.parametrize("load", MADE, ids=lambda load: load.name)
def test_a_load_has_its_rate_and_its_length(load: Load) -> None:
    trace = load.trace(WORKERS, SECONDS, 0)
    rate = load.rate if isinstance(load, Common) else RATE
    assert len(trace) == pytest.approx(rate * WORKERS * SECONDS, rel=0.25)
    assert trace.duration_s <= SECONDS + 0.001


def test_common_bursts_do_not_even_out() -> None:
    """Counts per 20 ms vary as much relative to their mean, for any number of workers; of independent gaps less."""

    def variation(load: Load, workers: int) -> float:
        counts = np.histogram(load.trace(workers, 2.0, 0).arrival_ns, 100, (0, 2 * NS_PER_S))[0]
        return float(counts.std() / counts.mean())

    common, independent = MADE[3], Independent(16.0)
    assert isinstance(common, Common)
    assert variation(common, 1_024) == pytest.approx(variation(common, 64), rel=0.1)
    assert variation(independent, 1_024) < 0.5 * variation(independent, 64)


def test_the_busiest_part_is_where_most_arrive() -> None:
    at_ns = np.array([0, 5, 30, 31, 32, 38, 60])
    part = busiest(Trace("some", at_ns * NS_PER_S), 10.0)
    assert part.arrival_ns.tolist() == [0, NS_PER_S, 2 * NS_PER_S, 8 * NS_PER_S]


@pytest.mark.parametrize("shards", [1, 4])
def test_shards_by_hash_have_every_request_once(shards: int) -> None:
    whole = MADE[2].trace(WORKERS, SECONDS, 0).arrival_ns
    parts = [trace.arrival_ns for trace in hashed(job(MADE[2], shards=shards))]
    assert len(parts) == shards
    assert np.array_equal(np.sort(np.concatenate(parts)), whole)


def test_models_have_bursts_of_their_own() -> None:
    traces = of_models(job(MADE[2], Sharding.MODEL, 2))
    assert not np.array_equal(traces[0].arrival_ns[:100], traces[1].arrival_ns[:100])


def test_one_shard_is_the_same_however_it_came_about() -> None:
    """One model alone is what a shard by hash is that gets everything, and what shared workers serve alone."""
    by_hash, *others = (work(job(MADE[3], sharding)) for sharding in Sharding)
    assert [msgspec.structs.replace(one, sharding=Sharding.HASH) for one in others] == [by_hash, by_hash]
    assert Key.of(by_hash) == job(MADE[3]).key
    assert 0.9 < by_hash.slo_attainment <= 1.0
    assert 73.0 < by_hash.mean_serving_accuracy < 81.0


def test_sharing_workers_is_better_than_having_ones_own() -> None:
    """Where models have bursts of their own."""
    apart, together = (work(job(MADE[3], sharding, 2)) for sharding in (Sharding.MODEL, Sharding.HOSTED))
    assert apart.offered == together.offered
    assert together.goodput_weighted_accuracy > apart.goodput_weighted_accuracy


def test_every_run_is_asked_for_once() -> None:
    todo = jobs(None)
    assert len({one.key for one in todo}) == len(todo)
    assert {one.sharding for one in todo} == set(Sharding)
    assert all(one.workers % one.shards == 0 for one in todo)
