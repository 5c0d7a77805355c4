"""Faults on a schedule, done to the worker processes of a running server."""

import asyncio
import os
import signal
import time
from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec
import numpy as np
import psutil

from superserve.client.client import AsyncClient
from superserve.client.retries import Retries
from superserve.errors import SuperServeError
from superserve.serving.emulated import DEADLY, SLOW_SIGNAL
from superserve.serving.worker import MODULE

Kind = Literal["kill", "hang", "slow", "poison"]

#: What a worker gets. Of a stopped one nobody hears anything: it has to be missed.
_SIGNALS: Final[dict[Kind, signal.Signals]] = {
    "kill": signal.SIGKILL,
    "hang": signal.SIGSTOP,
    "slow": SLOW_SIGNAL,
}
#: How long a slow worker is.
_SLOW_S: Final = 4.0
#: A poisoned request has the time to kill two workers and to be told of it.
_POISON_SLO_MS: Final = 10_000.0


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One that was done. ``at_s`` counts from the start of the load, ``epoch_s`` is the date that logs show."""

    kind: Kind
    at_s: float
    epoch_s: float
    pid: int | None = None
    """The worker that it was done to; None for an input."""
    answer: str = ""
    """What the sender of a poisonous input was told."""


class Injector:
    """Does something to a random worker now and then.

    Args:
        router: the server's process.
        url: of the server, which poisonous inputs are sent to.
        model: its name there.
        kinds: what is done, in turn.
        seed: of whom it is done to.

    Attributes:
        done: what was done so far.
    """

    def __init__(self, router: int, url: str, model: str, kinds: Sequence[Kind], seed: int) -> None:
        self.done: list[Fault] = []
        self._router = psutil.Process(router)
        self._url = url
        self._model = model
        self._kinds = tuple(kinds)
        self._rng = np.random.default_rng(seed)
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, seconds: float, every_s: float) -> None:
        """Do it every so many seconds, for so many; return when everything that was begun has ended."""
        began_s = time.monotonic()
        for number, at_s in enumerate(due_s(seconds, every_s)):
            await asyncio.sleep(max(0.0, began_s + at_s - time.monotonic()))
            self._do(self._kinds[number % len(self._kinds)], time.monotonic() - began_s)
        await asyncio.gather(*self._tasks)

    def _do(self, kind: Kind, at_s: float) -> None:
        if kind == "poison":
            self._later(self._poison(at_s))
            return
        pid = int(self._rng.choice(worker_pids(self._router)))
        self.done.append(Fault(kind=kind, at_s=at_s, epoch_s=time.time(), pid=pid))
        os.kill(pid, _SIGNALS[kind])
        if kind == "slow":
            self._later(self._recover(pid))

    def _later(self, what: Any) -> None:  # noqa: ANN401  (a coroutine of any kind)
        task = asyncio.ensure_future(what)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _recover(self, pid: int) -> None:
        await asyncio.sleep(_SLOW_S)
        if pid in worker_pids(self._router):  # it may have been killed meanwhile
            os.kill(pid, SLOW_SIGNAL)

    async def _poison(self, at_s: float) -> None:
        epoch_s = time.time()
        async with AsyncClient(self._url, retries=Retries(max_attempts=1)) as client:
            (tensor,) = (await client.metadata(self._model)).inputs
            shape = [max(1, size) for size in tensor.shape]
            row = np.zeros(shape, np.uint8)
            row.reshape(-1)[: len(DEADLY)] = list(DEADLY)
            try:
                await client.infer(self._model, {tensor.name: row}, slo_ms=_POISON_SLO_MS)
            except SuperServeError as error:
                answer = str(error)
            else:
                answer = "an answer"
        self.done.append(Fault(kind="poison", at_s=at_s, epoch_s=epoch_s, answer=answer))


def due_s(seconds: float, every_s: float) -> list[float]:
    """When something is done: from half an interval after the start, and not within two intervals of the end."""
    return [float(at_s) for at_s in np.arange(every_s / 2, seconds - 2 * every_s + 1e-9, every_s)]


def worker_pids(router: psutil.Process) -> list[int]:
    """The worker processes of a server that live."""
    found = []
    for child in router.children():
        try:
            if MODULE in child.cmdline() and child.status() != psutil.STATUS_ZOMBIE:
                found.append(child.pid)
        except psutil.NoSuchProcess:
            continue
    return found
