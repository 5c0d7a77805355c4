"""A server as a whole: model folder, profile, scheduler, router, workers and the HTTP front end."""

import asyncio
import gc
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

import msgspec
import uvloop

from superserve import __version__
from superserve.clock import NS_PER_US, Clock, MonotonicClock
from superserve.engine import EngineChoice
from superserve.errors import ProfileError
from superserve.frontend.grpc_front_end import GrpcFrontEnd
from superserve.frontend.http_server import HttpServer
from superserve.frontend.request_ids import RequestIds
from superserve.frontend.routes import V2Routes
from superserve.model_folder import ModelFolder, write_json
from superserve.profile import LatencyTable, Profile
from superserve.scheduling import Scheduler, SchedulerLimits, create_policy
from superserve.serving.config import Config
from superserve.serving.cores import available_cores, pinned, plan_cores
from superserve.serving.dataplane import DataPlane, ServedModel
from superserve.serving.devices import CUDA, emulated_profile, workers_for
from superserve.serving.local_pool import LocalPool
from superserve.serving.pool import WorkerPool
from superserve.serving.router import Router

if TYPE_CHECKING:
    from superserve.profiler import Progress

_logger = logging.getLogger(__name__)

#: Told of progress: done, total, what is being done.
Report = Callable[[float, float, str], None]

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class ReadyNote(msgspec.Struct, frozen=True):
    """What a ready file says."""

    url: str
    pid: int
    grpc: str | None = None
    """Address of the gRPC front end."""


class Server:
    """One model behind HTTP. Use it as ``async with``: it is ready inside the block, and drained at its end.

    Args:
        config: everything that can be set.
        folder: the model.
        profile: what to plan with; its subnets are those of the pool's workers, in the same order.
        pool: the workers; started and stopped with the server.
        clock: time and timers.
    """

    def __init__(self, config: Config, folder: ModelFolder, profile: Profile, pool: WorkerPool, clock: Clock) -> None:
        model, settings = folder.config, config.model
        policy = create_policy(settings.policy, LatencyTable(profile), settings.timeout_action)
        scheduler = Scheduler(
            policy,
            overhead_ns=round(profile.dispatch_overhead_us * NS_PER_US),
            limits=SchedulerLimits(max_queued=settings.max_queued),
        )
        self.router = Router(scheduler, pool, clock, output_row_bytes=[spec.row_bytes for spec in model.outputs])
        self.model = ServedModel(
            model,
            self.router,
            slo_ms=settings.slo_ms or profile.default_slo_ms(),
            emulated=emulated_profile(config.workers.device) is not None,
        )
        self.plane = DataPlane([self.model], version=__version__)
        ids = RequestIds()
        self.http = HttpServer(V2Routes(self.plane), clock, config.http, ids)
        self.grpc = GrpcFrontEnd(self.plane, clock, config, ids)
        self._config = config
        self._pool = pool

    @property
    def url(self) -> str:
        """Where it listens."""
        host = self._config.server.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.http.port}"

    @property
    def grpc_address(self) -> str | None:
        """Where it listens for gRPC; None if it does not."""
        host = self._config.server.host
        return f"{f'[{host}]' if ':' in host else host}:{self.grpc.port}" if self.grpc.port else None

    async def start(self) -> None:
        """Listen, start the workers, and return when they are warm; until then readiness is answered with no.

        Raises:
            ConfigError: if the address cannot be listened on.
            WorkerError: if a worker fails to start. Nothing is left behind in either case.
        """
        await self.http.start(self._config.server.host, self._config.server.http_port)
        try:
            await self.grpc.start()
            await self.router.start()
        except BaseException:
            await self.grpc.stop(0)
            await self.http.stop()
            raise
        model = self.model
        _logger.info(
            "serving %s%s at %s and %s: %d subnets, %d workers, policy %s, SLO %g ms",
            model.config.name,
            " (emulated)" if model.emulated else "",
            self.url,
            f"gRPC {self.grpc_address}" if self.grpc_address else "no gRPC",
            len(self.router.table),
            self._pool.size,
            self.router.policy_name,
            model.slo_ms,
        )

    async def stop(self) -> None:
        """Answer what has been admitted, within ``drain_timeout_s``, refuse everything else, and end; idempotent."""
        await self.router.drain(self._config.server.drain_timeout_s)
        await self.grpc.stop()
        await self.http.stop()
        await self.router.stop()

    async def hasten(self) -> None:
        """Make a `stop` under way end now: what is unanswered fails."""
        await self.router.drain(0)
        self.http.abort()
        await self.grpc.stop(0)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()


def choose_profile(
    folder: ModelFolder, choice: EngineChoice, profile_file: Path | None = None, report: Report | None = None
) -> Profile:
    """The profile to plan with: the emulated device's, the given file, the kept one, or one measured now (10 s).

    Raises:
        ProfileError: if it cannot be read or does not fit the model.
        WorkerError: if it has to be measured and a worker fails.
    """
    emulated = emulated_profile(choice.device)
    if emulated is not None:
        return Profile.load(emulated)
    profile = Profile.load(profile_file) if profile_file is not None else _kept_or_measured(folder, choice, report)
    _check_engine(profile, choice)
    _check_fits(profile, folder)
    return profile


def _kept_or_measured(folder: ModelFolder, choice: EngineChoice, report: Report | None) -> Profile:
    from superserve.profiler import find_profile, measure, save_profile  # noqa: PLC0415  (needed only without a file)

    found = find_profile(folder, choice)
    if found is not None:
        return found
    _logger.info("no profile of %s, %s, on this machine yet: measuring one, about 10 s", folder.config.name, choice)

    def progress(step: "Progress") -> None:
        if report is not None:
            report(step.done, step.total, f"profile: {step.stage}")

    measured = measure(folder, quick=True, choice=choice, report=progress).profile
    save_profile(folder, measured)
    return measured


def _check_engine(profile: Profile, choice: EngineChoice) -> None:
    """A profile that somebody chose is planned with, whatever it was measured on; a mistake is worth a warning."""
    device = profile.device
    if (device.engine, device.dtype) != (choice.engine, choice.dtype):
        _logger.warning(
            "the profile was measured on engine %s %s, but workers run %s: latencies will differ from the plan",
            device.engine,
            device.dtype,
            choice,
        )


def _check_fits(profile: Profile, folder: ModelFolder) -> None:
    front = [record.id for record in folder.front.subnets]
    if profile.model_hash != folder.model_hash or [subnet.id for subnet in profile.subnets] != front:
        raise ProfileError(
            f"the profile was measured on another model than {folder.path} holds: run `superserve profile` again"
        )
    if profile.batches[-1] > folder.config.max_batch_size:
        raise ProfileError(
            f"the profile goes up to batch {profile.batches[-1]}, but max_batch_size of the model is "
            f"{folder.config.max_batch_size}: run `superserve profile` again"
        )


def serve_model(
    folder: ModelFolder, config: Config, choice: EngineChoice, profile: Profile, *, ready_file: Path | None = None
) -> None:
    """``superserve serve``: serve a model until SIGINT or SIGTERM; a second signal does not wait for answers.

    Args:
        folder: the model.
        config: everything that can be set.
        choice: what the workers run; see `choose_engine`.
        profile: to plan with; see `choose_profile`.
        ready_file: written once ready, with the URL and the process id as JSON.

    Raises:
        UsageError: if the model, the configuration or the port cannot be used.
        WorkerError: if a worker fails to start.
    """
    plan = plan_cores(available_cores(), config.workers.count or (1 if choice.device == CUDA else None))
    _logger.info("workers run %s", choice)
    if plan.shared:
        _logger.info("%d workers share cores: latencies will vary", len(plan.workers))

    async def serve() -> None:
        clock = MonotonicClock(asyncio.get_running_loop())
        pool = LocalPool(workers_for(folder, choice), plan.workers, clock)
        await _until_signalled(Server(config, folder, profile, pool, clock), ready_file)

    with pinned(plan.router), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())


async def _until_signalled(server: Server, ready_file: Path | None) -> None:
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    hasty: list[asyncio.Task[None]] = []

    def on_signal() -> None:
        if told.is_set() and not hasty:
            hasty.append(loop.create_task(server.hasten()))
        told.set()

    for number in _SIGNALS:
        loop.add_signal_handler(number, on_signal)
    waiting = loop.create_task(told.wait())
    starting = loop.create_task(server.start())
    try:
        await asyncio.wait((starting, waiting), return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.wait((starting,))
            return
        starting.result()
        _settle(server, ready_file)
        await waiting
        _logger.info("stopping: answering %d requests under way", server.router.unfinished)
        await server.stop()
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, *hasty, return_exceptions=True)


def _settle(server: Server, ready_file: Path | None) -> None:
    # A full collection over everything that was imported would stop the router for longer than an SLO allows.
    gc.collect()
    gc.freeze()
    if ready_file is not None:
        write_json(ready_file, ReadyNote(server.url, os.getpid(), server.grpc_address))
