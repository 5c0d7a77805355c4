"""The servers: what each needs, how it is started and spoken to, and how it is tuned."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from peers import messages
from peers.jobs import CNN, NOOP, Job


@dataclass(frozen=True)
class Tuning:
    """Rows of the largest batch (1: no batching), and how long one may wait to be filled."""

    rows: int
    wait_us: int = 0

    def __str__(self) -> str:
        if self.rows == 1:
            return "no batching"
        return f"up to {self.rows} rows" + (f", wait {self.wait_us / 1000:g} ms" if self.wait_us else "")


@dataclass(frozen=True, kw_only=True)
class Peer:
    """One server, or one way of speaking to it.

    ``module`` is started with `peers.servers.arguments`, in an environment with ``packages``. ``message`` gives the
    bytes of a request. ``pausable``: whether its processes may be stopped while another server is measured.
    ``patch``: a module of `peers.servers` that every interpreter of its environment imports first.
    """

    name: str
    title: str
    packages: tuple[str, ...]
    module: str
    message: Callable[[Job], bytes]
    tuning: Mapping[str, Tuning]
    settings: str
    protocol: Literal["http", "grpc"] = "http"
    environment_of: str = ""
    environ: Mapping[str, str] = field(default_factory=dict)
    pausable: bool = True
    patch: str = ""


def _both(noop: Tuning, cnn: Tuning) -> dict[str, Tuning]:
    return {NOOP.name: noop, CNN.name: cnn}


OURS: Final = Peer(
    name="superserve",
    title="SuperServe (HTTP)",
    packages=(),
    module="superserve_server",
    message=lambda job: messages.v2_binary(job, slo_ms=10_000),
    tuning=_both(Tuning(64), Tuning(16)),
    settings="V2 binary; router and worker process on the one core; (B) `serve digits --policy fixed:middle`",
)
OURS_GRPC: Final = replace(
    OURS,
    name="superserve-grpc",
    title="SuperServe (gRPC)",
    message=messages.grpc_v2,
    protocol="grpc",
    environ={"PEER_GRPC": "1"},
)

OURS_COMPILED: Final = replace(
    OURS, name="superserve-compiled", title="SuperServe (HTTP), compiled", environ={"PEER_ENGINE": "compiled"}
)

#: Its worker is an actor of a cluster of its own; in an environment that has Ray.
OURS_RAY: Final = replace(
    OURS, name="superserve-ray", title="SuperServe, Ray pool", environ={"PEER_POOL": "ray"}, pausable=False
)

PEERS: Final = {
    peer.name: peer
    for peer in (
        Peer(
            name="mosec",
            title="mosec",
            packages=("mosec",),
            module="mosec_server",
            message=lambda job: messages.raw(job, "/inference"),
            tuning=_both(Tuning(64, 1000), Tuning(16, 1000)),
            settings="raw bytes in and out, one worker, capacity 20,000",
        ),
        Peer(
            name="fastapi",
            title="FastAPI + uvicorn by hand",
            packages=("fastapi", "uvicorn", "uvloop", "httptools"),
            module="fastapi_server",
            message=messages.raw,
            tuning=_both(Tuning(1), Tuning(16)),
            settings="raw bytes, uvloop, httptools, no access log, gc.freeze; a micro-batcher over one thread for (B)",
        ),
        Peer(
            name="grpc",
            title="grpc.aio by hand (gRPC)",
            packages=("grpcio",),
            module="grpc_server",
            message=messages.grpc_raw,
            tuning=_both(Tuning(1), Tuning(16)),
            settings="the bytes are the message (no protobuf), gc.freeze; a micro-batcher over one thread for (B)",
            protocol="grpc",
        ),
        Peer(
            name="kserve",
            title="KServe (gRPC)",
            packages=("kserve",),
            module="kserve_server",
            message=messages.grpc_v2,
            tuning=_both(Tuning(1), Tuning(1)),
            settings="V2 raw contents; the SDK has no batching (in a cluster an agent beside it has); gc.freeze",
            protocol="grpc",
        ),
        Peer(
            name="mlserver",
            title="MLServer (gRPC)",
            packages=("mlserver",),
            module="mlserver_server",
            message=messages.grpc_v2,
            tuning=_both(Tuning(64, 10_000), Tuning(16, 10_000)),
            settings="V2 raw contents, no parallel workers, adaptive batching, no metrics, no gzip",
            protocol="grpc",
        ),
        Peer(
            name="mlserver-rest",
            title="MLServer (REST)",
            packages=("mlserver",),
            module="mlserver_server",
            message=messages.v2_json,
            tuning=_both(Tuning(64, 10_000), Tuning(16, 10_000)),
            settings="as over gRPC; tensors as JSON lists (its REST has no binary extension)",
            environment_of="mlserver",
            environ={"PEER_REST": "1"},
        ),
        Peer(
            name="triton",
            title="Triton, Python wheel",
            packages=("nvidia-pytriton",),
            module="triton_server",
            message=messages.v2_binary_cells,
            tuning=_both(Tuning(64, 1000), Tuning(16, 1000)),
            settings="pytriton, V2 binary over HTTP, dynamic batcher",
            patch="older_locks",
            pausable=False,
        ),
        Peer(
            name="bentoml",
            title="BentoML",
            packages=("bentoml",),
            module="bentoml_server",
            message=lambda job: messages.base64_json(job, "image", "/infer", as_list=True),
            tuning=_both(Tuning(1), Tuning(16)),
            settings="base64 in JSON (raw bytes cannot be batched), one worker, adaptive batching for (B), no metrics",
        ),
        Peer(
            name="litserve",
            title="LitServe",
            packages=("litserve",),
            module="litserve_server",
            message=lambda job: messages.base64_json(job, "image", "/predict"),
            tuning=_both(Tuning(1), Tuning(16, 1000)),
            settings="base64 in JSON, one worker, `fast_queue=True`",
        ),
        Peer(
            name="ray",
            title="Ray Serve",
            packages=("ray[serve]",),
            module="ray_server",
            message=messages.raw,
            tuning=_both(Tuning(64, 1000), Tuning(16, 1000)),
            settings="raw bytes, one replica, `serve.batch`, no dashboard",
            # With one core for all of its processes it takes its own front end for dead and kills it.
            environ={
                "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
                "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "60",
                "RAY_USAGE_STATS_ENABLED": "0",
            },
            pausable=False,
        ),
    )
}
