"""A served model without workers, sockets or real time."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np

from superserve.clock import NS_PER_MS, Clock
from superserve.errors import SuperServeError
from superserve.model_folder import ModelConfig, TensorSpec
from superserve.profile import LatencyTable, Profile
from superserve.profiler.estimate import cell_quantiles
from superserve.scheduling import SchedulerLimits, TimeoutAction, create_scheduler
from superserve.serving.dataplane import ServedModel
from superserve.serving.fake_pool import FakePool
from superserve.serving.idle_work import IdleSource
from superserve.serving.inference import Answer
from superserve.serving.ledger import Ledger
from superserve.serving.live_profile import LiveProfile
from superserve.serving.recorder import Recorder as RunRecorder
from superserve.serving.router import Router
from superserve.serving.shared_pool import SharedPool
from superserve.serving.telemetry import DEFAULT_SLO_NS
from superserve.serving.tracing import RequestTracer
from support.profiles import make_profile

#: Two subnets: batch 1 takes 1 or 4 ms, batch 4 takes 2 or 8 ms.
PROFILE = make_profile([[1.0, 2.0], [4.0, 8.0]], batches=(1, 4))

MODEL = ModelConfig(
    format=1,
    name="tiny",
    family="none",
    architecture={},
    task="test",
    dataset="none",
    labels=(),
    inputs=(TensorSpec("image", "UINT8", (-1, 2, 2)), TensorSpec("scale", "FP32", (-1,))),
    outputs=(TensorSpec("pixels", "UINT8", (-1, 2, 2)), TensorSpec("factor", "FP32", (-1,))),
    preprocessing={},
)


def make_router(
    pool: FakePool | SharedPool,
    clock: Clock,
    *,
    profile: Profile | Sequence[Profile] = PROFILE,
    policy: str = "slackfit",
    timeout_action: TimeoutAction = "reject",
    max_queued: int = 100,
    config: ModelConfig = MODEL,
    number: int = 0,
    decisions: int = 100,
    recorder: RunRecorder | None = None,
    tracer: RequestTracer | None = None,
    ledger: Ledger | None = None,
    idle_sources: Sequence[IdleSource] = (),
    slo_ns: int = DEFAULT_SLO_NS,
) -> Router:
    """A router of `MODEL`, on a pool of its own or one that it shares; a `FakePool` echoes the inputs."""
    shared = pool if isinstance(pool, SharedPool) else SharedPool(pool, clock)
    profiles = (profile,) if isinstance(profile, Profile) else profile
    scheduler = create_scheduler(
        policy,
        profiles,
        overheads_ns=[round(each.dispatch_overhead_us * 1000) for each in profiles],
        timeout_action=timeout_action,
        limits=SchedulerLimits(max_queued=max_queued),
        shared=shared.workers,
    )
    return Router(
        scheduler,
        shared,
        clock,
        output_row_bytes=[spec.row_bytes for spec in config.outputs],
        number=number,
        decisions=decisions,
        recorder=recorder,
        tracer=tracer,
        ledger=ledger,
        idle_sources=idle_sources,
        slo_ns=slo_ns,
    )


def make_ledger(share: float = 1.0) -> Ledger:
    """A ledger of `MODEL`, of all degraded requests by default."""
    return Ledger(MODEL, LatencyTable(PROFILE), share=share, max_bytes=1 << 20, rng=np.random.default_rng(0))


def make_live_profile(profile: Profile = PROFILE) -> LiveProfile:
    """What measures a profile again, and keeps nothing."""
    rows, rng = [[bytes(4), bytes(4)]], np.random.default_rng(0)
    return LiveProfile("tiny", profile, examples=lambda: rows, keep=None, rng=rng, tails=cell_quantiles)


def make_model(
    router: Router,
    *,
    config: ModelConfig = MODEL,
    emulated: bool = False,
    slo_ms: float = 50.0,
    live_profile: LiveProfile | None = None,
    devices: Sequence[str] = (),
) -> ServedModel:
    """`MODEL` behind a router."""
    return ServedModel(config, router, slo_ms=slo_ms, emulated=emulated, live_profile=live_profile, devices=devices)


def rename(config: ModelConfig, name: str) -> ModelConfig:
    """The same model under another name."""
    return msgspec.structs.replace(config, name=name)


@dataclass
class Recorder:
    """A `Responder` that keeps what it is told; outputs are copied, as they must be."""

    answers: list[Answer] = field(default_factory=list)
    outputs: list[list[bytes]] = field(default_factory=list)
    errors: list[SuperServeError] = field(default_factory=list)

    def answered(self, answer: Answer) -> None:
        """See `Responder.answered`."""
        self.answers.append(answer)
        self.outputs.append([bytes(output) for output in answer.outputs])

    def refused(self, error: SuperServeError) -> None:
        """See `Responder.refused`."""
        self.errors.append(error)

    @property
    def ended(self) -> int:
        """How often it was told that the request ended."""
        return len(self.answers) + len(self.errors)


def ask(router: Router, timeout_ms: float = 50.0, mark: int = 0) -> Recorder:
    """Submit a request of one row of `MODEL`, all of whose elements are a mark; what hears of its end."""
    recorder, now_ns = Recorder(), router.now_ns()
    router.submit(
        arrival_ns=now_ns,
        deadline_ns=now_ns + round(timeout_ms * NS_PER_MS),
        rows=1,
        min_accuracy=0.0,
        priority=0,
        inputs=[bytes([mark] * 4), struct.pack("<f", mark)],
        responder=recorder,
    )
    return recorder
