"""Texts of different lengths from the front end's door to the pool, and the same in the simulator."""

import numpy as np
import pytest

from superserve.clock import NS_PER_MS, ManualClock
from superserve.profile import Profile
from superserve.protocol.byte_strings import join
from superserve.scheduling import Scheduler, create_policies
from superserve.serving.fake_pool import FakePool
from superserve.serving.inference import InferRequest, InputTensor
from superserve.serving.pool import Batch
from superserve.simulator.recording import Recording
from superserve.simulator.simulator import Simulation, drawn_buckets
from superserve.traces.trace import Trace
from support.profiles import make_profile, with_shorter
from support.serving import Recorder, make_model, make_router
from support.texts import text_config

LONGEST = make_profile([[2.0, 6.0], [8.0, 24.0]], (1, 4))
PROFILE = with_shorter(LONGEST, (4, 0.5, 0.25), (8, 0.3, 0.5))
#: Of 1 + 3, 1 + 6 and 1 + 9 pieces.
TEXTS = (b"pay it now", b"how much is my bill?", b"pay it now pay it now pay it now")


def logits(batch: Batch) -> list[bytes]:
    return [bytes(12 * batch.rows)]


def ask(*texts: bytes) -> InferRequest:
    return InferRequest(inputs=(InputTensor("text", "BYTES", [len(texts), 1], join(texts)),))


@pytest.mark.parametrize(("profile", "buckets"), [(PROFILE, [0, 1, 2, 2]), (LONGEST, [0, 0, 0, 0])])
def test_a_request_is_of_the_bucket_of_its_longest_text(profile: Profile, buckets: list[int]) -> None:
    """Where the profile has one length there is one bucket."""
    model = make_model(make_router(FakePool(1, logits), ManualClock(), profile=profile), config=text_config())
    asked = [*(ask(text) for text in TEXTS), ask(*TEXTS)]
    assert [model.check(request).bucket for request in asked] == buckets


async def test_a_batch_is_planned_for_its_longest_text() -> None:
    """Alone, two together, and what the answer's explanation says."""
    clock, pool = ManualClock(), FakePool(1, logits)
    router = make_router(pool, clock, profile=PROFILE, policy="fixed:largest", config=text_config())
    model = make_model(router, config=text_config(), slo_ms=500.0)
    await router.start()
    for number, texts in enumerate(([TEXTS[0]], [TEXTS[1]], [TEXTS[0], TEXTS[0]])):
        model.submit(model.check(ask(*texts)), clock.now_ns(), Recorder(), b"%d" % number)
    planned = []
    while pool.running:
        planned.append((pool.running[0].rows, pool.running[0].planned_ns / NS_PER_MS))
        clock.advance(pool.running[0].planned_ns)
        pool.finish(0, infer_ns=pool.running[0].planned_ns)
    assert planned == [(1, 2.0), (3, 12.0)]
    explained = model.explain(b"2")
    assert explained is not None
    assert explained.attempts[0].planned_ms == 12.0


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("policy", ["drainfit", "slackfit", "fixed:largest"])
async def test_router_and_simulator_decide_alike(seed: int, policy: str) -> None:
    """Twenty texts at once, with deadlines of their own."""
    rng = np.random.default_rng(seed)
    buckets = rng.integers(0, 3, 20).astype(np.int8)
    slo_ns = rng.integers(5, 200, 20) * NS_PER_MS

    clock, pool = ManualClock(start_ns=0), FakePool(1, logits)
    router = make_router(pool, clock, profile=PROFILE, policy=policy, config=text_config())
    await router.start()
    for deadline_ns, bucket in zip(slo_ns.tolist(), buckets.tolist(), strict=True):
        router.submit(
            arrival_ns=0,
            deadline_ns=deadline_ns,
            rows=1,
            min_accuracy=0.0,
            priority=0,
            inputs=[bytes(68)],
            responder=Recorder(),
            bucket=bucket,
        )
    live = []
    while pool.running:
        batch = pool.running[0]
        live.append((clock.now_ns(), batch.subnet, batch.rows, batch.planned_ns))
        clock.advance(batch.planned_ns)
        pool.finish(0, infer_ns=batch.planned_ns)

    *shorter, longest = create_policies(policy, PROFILE)
    scheduler, recording = Scheduler(longest, overhead_ns=0, shorter=shorter), Recording()
    Simulation(
        Trace("at once", np.zeros(20, np.int64), slo_ns),
        scheduler,
        workers=1,
        slo_ns=0,
        latency_ns=lambda launch: launch.planned_ns,
        overhead_ns=0,
        buckets=buckets,
        recording=recording,
    ).run()
    assert live == [(one.launched_ns, one.subnet, one.rows, one.end_ns - one.launched_ns) for one in recording.batches]


def test_simulated_requests_have_the_lengths_of_the_profile() -> None:
    """A request of several rows is of the longest of them."""
    arrival_ns = np.zeros(20_000, np.int64)
    found = drawn_buckets(Trace("a", arrival_ns), PROFILE, np.random.default_rng(0))
    assert found is not None
    np.testing.assert_allclose(np.bincount(found) / len(found), PROFILE.shares, atol=0.01)
    pairs = drawn_buckets(Trace("b", arrival_ns, rows=np.full(20_000, 2, np.int32)), PROFILE, np.random.default_rng(0))
    assert pairs is not None
    np.testing.assert_allclose(np.bincount(pairs) / len(pairs), [0.25, 0.39, 0.36], atol=0.01)
    assert drawn_buckets(Trace("c", arrival_ns), LONGEST, np.random.default_rng(0)) is None
