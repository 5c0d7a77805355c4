"""SuperServe: the CNN through ``superserve serve``, the no-op through the same server with an engine of our own.

The no-op passes the HTTP front end, the router, the scheduler, shared memory and a worker process like any model; only
the engine in the worker is not torch.
"""

import asyncio
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Literal

import uvloop

from peers.jobs import OUTPUT_NAME, OUTPUT_VALUES
from peers.servers.arguments import Arguments, parse
from superserve.clock import MonotonicClock
from superserve.engine import EngineChoice
from superserve.frontend.deployment import Deployment
from superserve.frontend.server import MakePool, Server, pool_of
from superserve.model_folder import ModelConfig, ModelFolder, TensorSpec, write_json
from superserve.profile import Device, Profile, SubnetProfile
from superserve.serving.config import Config, ModelSettings, ServerConfig, WorkerSettings
from superserve.serving.cores import available_cores, pinned
from superserve.serving.ipc import WorkerSpec
from superserve.serving.router_memory import settle_memory

#: What a batch of the no-op takes, and what the router adds, in microseconds: planning needs some figure.
BATCH_US = 20.0
OVERHEAD_US = 100.0

#: Where the workers are.
POOL: Literal["local", "ray"] = "ray" if os.environ.get("PEER_POOL") == "ray" else "local"

NOOP = EngineChoice("cpu", "noop", "float32")


def main() -> None:
    """Serve until told to stop."""
    given = parse()
    if given.job.subnet:
        policy = os.environ.get("PEER_POLICY", f"fixed:{given.job.subnet}")
        http_port, grpc_port = ports(given)
        command = ["-m", "superserve", "serve", given.job.model, "--http-port", str(http_port)]
        command += ["--grpc-port", str(grpc_port), "--metrics-port", str(given.port + 2)]
        if policy != "default":
            command += ["--policy", policy]
        # Eager torch as the peers have it, unless compiled code is what is to be measured.
        command += ["--engine", os.environ.get("PEER_ENGINE", "eager")]
        command += ["--pool", POOL, "--workers", "1"]
        os.execv(sys.executable, [sys.executable, *command])  # noqa: S606  (no shell is wanted)
    with (
        pool_of(WorkerSettings(pool=POOL, count=1)) as make,
        pinned(available_cores()[0]),
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(serve_noop(given, make))


def ports(given: Arguments) -> tuple[int, int]:
    """For HTTP and gRPC; the one that was asked for is that of the protocol that is measured."""
    other = given.port + 1
    return (other, given.port) if os.environ.get("PEER_GRPC") == "1" else (given.port, other)


def noop_folder(given: Arguments) -> ModelFolder:
    """A folder with nothing but a configuration."""
    job = given.job
    config = ModelConfig(
        format=1,
        name=job.model,
        family="none",
        architecture={},
        task="none",
        dataset="none",
        labels=(),
        inputs=(TensorSpec(job.input_name, "UINT8", (-1, *job.row_shape)),),
        outputs=(TensorSpec(OUTPUT_NAME, "FP32", (-1, OUTPUT_VALUES)),),
        preprocessing={},
        max_batch_size=given.rows,
    )
    path = Path(tempfile.mkdtemp(prefix="peers-noop-"))
    write_json(path / "config.json", config)
    return ModelFolder(path)


def noop_profile(rows: int) -> Profile:
    """One subnet that takes no time to speak of."""
    batches = tuple(1 << bit for bit in range(rows.bit_length()))
    row = (BATCH_US,) * len(batches)
    subnet = SubnetProfile(id="noop", accuracy=100.0, p50_us=row, p95_us=row, p99_us=row)
    device = Device(name="noop", kind="cpu", threads=1, engine="noop", dtype="float32", torch="none")
    return Profile(
        device=device, model_hash="noop", batches=batches, dispatch_overhead_us=OVERHEAD_US, subnets=(subnet,)
    )


async def serve_noop(given: Arguments, make: MakePool) -> None:
    """Serve the no-op until SIGTERM."""
    loop = asyncio.get_running_loop()
    folder, clock = noop_folder(given), MonotonicClock(loop)
    spec = WorkerSpec(
        engine="peers.servers.noop_engine:create_engine",
        options={},
        inputs=folder.config.inputs,
        outputs=folder.config.outputs,
        max_rows=given.rows,
        warm_batches=(1, given.rows),
    )
    pool = make([spec], clock)
    http_port, grpc_port = ports(given)
    config = Config(
        server=ServerConfig(http_port=http_port, grpc_port=grpc_port),
        model=ModelSettings(policy="fixed:largest", slo_ms=10_000),
    )
    stopped = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    async with Server(config, [Deployment(folder, NOOP, noop_profile(given.rows))], pool, clock):
        settle_memory()
        await stopped.wait()


if __name__ == "__main__":
    main()
