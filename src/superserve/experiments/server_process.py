"""A server of our own in a child process: started on a free port, ready when the block begins, gone after it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import psutil

from superserve.engine import PACKED, EngineChoice
from superserve.experiments.children import ChildProcess
from superserve.memory_sizes import ALL
from superserve.scheduling import TimeoutAction
from superserve.serving.devices import emulated_profile

READY_TIMEOUT_S: Final = 120.0
#: Between looks at whether it is ready; start-up takes seconds.
_LOOK_S: Final = 0.05


@dataclass(frozen=True)
class RunningServer:
    """Where it listens, the id of the process that routes, and where its metrics are."""

    url: str
    pid: int
    metrics: str
    grpc: str | None = None
    """Where it listens for gRPC."""

    def cpu_s(self) -> float:
        """CPU time that the routing process has used so far, its workers not included."""
        times = psutil.Process(self.pid).cpu_times()
        return float(times.user + times.system)


@asynccontextmanager
async def running_server(
    model: str,
    *,
    policy: str,
    workers: int,
    choice: EngineChoice,
    profile: Path | None,
    log: Path,
    timeout_action: TimeoutAction = "reject",
    repository: Path | None = None,
) -> AsyncIterator[RunningServer]:
    """``superserve serve`` as a child process.

    Args:
        model: a bundled model or a model folder.
        policy: what it schedules with.
        workers: how many it has.
        choice: what the workers run.
        profile: what it plans with; None leaves that to the server.
        log: takes what it says.
        timeout_action: what becomes of requests that cannot be met.
        repository: folder of models that may be loaded into it.

    Raises:
        ChildFailedError: if it ends, or is not ready in time; the message has the end of its log.
    """
    ready_file = log.with_suffix(".ready")
    ready_file.unlink(missing_ok=True)  # of an earlier server, if the folder is used again
    arguments = ["serve", model, "--policy", policy, "--http-port", "0", "--grpc-port", "0"]
    arguments += ["--metrics-port", "0"]
    arguments += ["--workers", str(workers), "--device", choice.device, "--timeout-action", timeout_action]
    if emulated_profile(choice.device) is None:
        arguments += ["--engine", choice.engine, "--dtype", choice.dtype]
    if choice.engine == PACKED:  # as it was profiled
        arguments += ["--engine-memory", ALL]
    arguments += ["--ready-file", str(ready_file)]
    arguments += ["--profile", str(profile)] if profile is not None else []
    arguments += ["--model-repository", str(repository)] if repository is not None else []
    async with ChildProcess("superserve", arguments, log=log) as child:
        yield await _ready(child, ready_file)


async def _ready(child: ChildProcess, ready_file: Path) -> RunningServer:
    try:
        async with asyncio.timeout(READY_TIMEOUT_S):
            while (server := _read(ready_file)) is None:
                if child.ended:
                    raise child.failure("ended before it was ready")
                await asyncio.sleep(_LOOK_S)
    except TimeoutError:
        raise child.failure(f"was not ready within {READY_TIMEOUT_S:.0f} s") from None
    return server


def _read(ready_file: Path) -> RunningServer | None:
    if not ready_file.is_file():
        return None
    return msgspec.json.decode(ready_file.read_bytes(), type=RunningServer)
