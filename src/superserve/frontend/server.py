"""A server as a whole: models with their routers, workers, and the front ends."""

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec
import uvloop

from superserve import __version__
from superserve.clock import Clock, MonotonicClock
from superserve.errors import ConfigError
from superserve.frontend.common import Common
from superserve.frontend.dashboard.history import History
from superserve.frontend.deployment import Deployment
from superserve.frontend.grpc_front_end import GrpcFrontEnd
from superserve.frontend.http_server import HttpServer
from superserve.frontend.metrics_front_end import MetricsFrontEnd
from superserve.frontend.repository import ModelRepository
from superserve.frontend.routes import V2Routes
from superserve.frontend.tracing import Tracing, open_tracing
from superserve.loopback import is_loopback
from superserve.model_folder import write_json
from superserve.serving.config import Config, WorkerSettings
from superserve.serving.cores import available_cores, pinned, plan_cores
from superserve.serving.dataplane import DataPlane, ServedModel
from superserve.serving.devices import CUDA
from superserve.serving.ipc import WorkerSpec
from superserve.serving.local_pool import LocalPool
from superserve.serving.pool import ResidentPool, WorkerPool
from superserve.serving.residency.packer import Packer
from superserve.serving.residency.residency import Residency
from superserve.serving.router_memory import settle_memory, use_one_arena
from superserve.serving.shared_pool import SharedPool

_logger = logging.getLogger(__name__)

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)

MakePool = Callable[[Sequence[WorkerSpec], Clock], WorkerPool]


class ReadyNote(msgspec.Struct, frozen=True):
    """What a ready file says."""

    url: str
    pid: int
    grpc: str | None = None
    """Address of the gRPC front end."""
    metrics: str | None = None
    """Where Prometheus reads."""


class Server:
    """Models behind HTTP and gRPC. Use it as ``async with``: it is ready inside the block, and drained at its end.

    Args:
        config: everything that can be set.
        models: what it serves; their names differ.
        pool: the workers, which hold these models in this order; started and stopped with the server.
        clock: time and timers.
        tracing: makes the spans of requests, if there are to be any; stopped with the server.
    """

    def __init__(
        self,
        config: Config,
        models: Sequence[Deployment],
        pool: WorkerPool,
        clock: Clock,
        tracing: Tracing | None = None,
    ) -> None:
        devices = next((model.devices for model in models if model.devices), ())
        residency = None
        if isinstance(pool, ResidentPool):
            residency = Residency(pool, Packer(clock), clock, config.workers.engine_memory_bytes)
        self._shared = SharedPool(
            pool, clock, lambda call: asyncio.get_running_loop().call_soon(call), devices, residency
        )
        self._tracing = tracing
        served = [model.served(config, self._shared, clock, number, tracing) for number, model in enumerate(models)]
        self.plane = DataPlane(served, version=__version__)
        self.repository = ModelRepository(
            config,
            self.plane,
            {model.folder.config.name: (number, model.folder) for number, model in enumerate(models)},
            pool=pool,
            shared=self._shared,
            clock=clock,
            tracing=tracing,
        )
        common = Common(config.server)
        self._access = common.access
        self.history = History(self.plane, self._shared.workers, lambda: pool.size, clock)
        routes = V2Routes(self.plane, self.repository, common.access, self.history)
        self.http = HttpServer(routes, clock, config.http, common)
        self.metrics = MetricsFrontEnd(self.plane, clock, config, common, self.history.headroom)
        self.grpc = GrpcFrontEnd(self.plane, clock, config, common, self.repository)
        self._config = config
        self._pool = pool

    @property
    def models(self) -> list[ServedModel]:
        """What it serves."""
        return list(self.plane.models.values())

    @property
    def unfinished(self) -> int:
        """Requests that have not been answered."""
        return sum(model.router.unfinished for model in self.models)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"{self._scheme}://{self._host}:{self.http.port}"

    @property
    def grpc_address(self) -> str | None:
        """Where it listens for gRPC; None if it does not."""
        return f"{self._host}:{self.grpc.port}" if self.grpc.port else None

    @property
    def metrics_url(self) -> str | None:
        """Where Prometheus reads; None if it cannot."""
        return f"{self._scheme}://{self._host}:{self.metrics.port}/metrics" if self.metrics.port else None

    @property
    def _scheme(self) -> str:
        return "https" if self._access.is_encrypted else "http"

    @property
    def _host(self) -> str:
        host = self._config.server.host
        return f"[{host}]" if ":" in host else host

    async def start(self) -> None:
        """Listen, start the workers, and return when they are warm; until then readiness is answered with no.

        Raises:
            ConfigError: if the address cannot be listened on.
            WorkerError: if a worker fails to start. Nothing is left behind in either case.
        """
        await self.http.start(self._config.server.host, self._config.server.http_port)
        try:
            await self.grpc.start()
            await self.metrics.start()
            self.history.start()
            for model in self.models:
                await model.router.start()
        except BaseException:
            self.history.stop()
            await self.grpc.stop(0)
            await self.metrics.stop()
            await self.http.stop()
            await self._stop_routers()
            raise
        _logger.info(
            "listening at %s, %s and %s, %d workers",
            self.url,
            f"gRPC {self.grpc_address}" if self.grpc_address else "no gRPC",
            f"metrics {self.metrics_url}" if self.metrics_url else "no metrics",
            self._pool.size,
        )
        if not self._access.asks_for_tokens and not is_loopback(self._config.server.host):
            _logger.warning("whoever reaches %s may use it: server.tokens asks for tokens", self._host)
        for model in self.models:
            _logger.info("serving %s", model)
            model.mend_profile()

    async def stop(self) -> None:
        """Answer what has been admitted, within ``drain_timeout_s``, refuse everything else, and end; idempotent."""
        await self.repository.close()
        await self._drain(self._config.server.drain_timeout_s)
        self._tell_packed()
        self.history.stop()
        await self.grpc.stop()
        await self.metrics.stop()
        await self.http.stop()
        await self._stop_routers()
        if self._tracing is not None:
            tracing, self._tracing = self._tracing, None
            await tracing.stop()

    async def hasten(self) -> None:
        """Make a `stop` under way end now: what is unanswered fails."""
        await self._drain(0)
        self.http.abort()
        self.metrics.abort()
        await self.grpc.stop(0)

    def _tell_packed(self) -> None:
        """Say what packed subnets came to, while the workers still have them."""
        for model in self.models:
            residency = model.router.residency
            if residency is not None:
                _logger.info("%s: %s", model.config.name, residency)

    async def _drain(self, timeout_s: float) -> None:
        await asyncio.gather(*(model.router.drain(timeout_s) for model in self.models))

    async def _stop_routers(self) -> None:
        await self._drain(0)
        await self._shared.stop()
        for model in self.models:
            await model.router.stop()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()


def serve_models(deployments: Sequence[Deployment], config: Config, *, ready_file: Path | None = None) -> None:
    """``superserve serve``: serve models until SIGINT or SIGTERM; a second signal does not wait for answers.

    Args:
        deployments: the models; see `superserve.frontend.deployment.deploy`.
        config: everything that can be set.
        ready_file: written once ready, with the URL and the process id as JSON.

    Raises:
        UsageError: if a model, the configuration or the port cannot be used.
        WorkerError: if a worker fails to start.
    """
    use_one_arena()
    for model in deployments:
        _logger.info(
            "workers run %s: %s", model.folder.config.name, model.choice._replace(device=config.workers.device)
        )
    specs = [model.workers(config) for model in deployments]

    async def serve(make: MakePool) -> None:
        clock = MonotonicClock(asyncio.get_running_loop())
        tracing = open_tracing(config.otel, clock)
        await _until_signalled(Server(config, deployments, make(specs, clock), clock, tracing), ready_file)

    # The pool comes first: threads and processes that it brings along are not to be pinned with the router.
    with (
        pool_of(config.workers) as make,
        pinned(available_cores()[0]),
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(serve(make))


@contextmanager
def pool_of(settings: WorkerSettings) -> Iterator[MakePool]:
    """What makes the pool that is configured.

    Raises:
        ConfigError: if a Ray cluster is wanted that cannot be used, or is named and not wanted.
    """
    if settings.pool == "ray":
        from superserve.serving.ray_cluster import connected  # noqa: PLC0415  (only where it is wanted)
        from superserve.serving.ray_pool import RayPool  # noqa: PLC0415

        with connected(settings.ray_address, settings.device) as cluster:
            yield lambda specs, clock: RayPool(specs, cluster, clock, settings.count)
        return
    if settings.ray_address is not None:
        raise ConfigError(
            f"workers.ray_address = {settings.ray_address!r}: it is for workers.pool = 'ray' (--pool ray)"
        )
    plan = plan_cores(available_cores(), settings.count or (1 if settings.device == CUDA else None))
    if plan.shared:
        _logger.info("%d workers share cores: latencies will vary", len(plan.workers))
    yield lambda specs, clock: LocalPool(specs, plan.workers, clock)


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
        _logger.info("stopping: answering %d requests under way", server.unfinished)
        await server.stop()
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, *hasty, return_exceptions=True)


def _settle(server: Server, ready_file: Path | None) -> None:
    settle_memory()
    if ready_file is not None:
        write_json(ready_file, ReadyNote(server.url, os.getpid(), server.grpc_address, server.metrics_url))
