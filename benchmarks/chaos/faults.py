"""Faults on a schedule, done to the worker processes of a running server."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator, Sequence
from itertools import count, takewhile
from typing import Final, Literal

import msgspec
import numpy as np
import psutil

from superserve.client.client import AsyncClient
from superserve.client.reply import TensorMetadata
from superserve.client.retries import Retries
from superserve.errors import SuperServeError
from superserve.serving.emulated import DEADLY, SLOWING
from superserve.serving.worker import MODULE

Kind = Literal["kill", "hang", "slow", "poison"]

#: What a worker gets. Of a stopped one nobody hears anything: it has to be missed.
_SIGNALS: Final[dict[Kind, signal.Signals]] = {"kill": signal.SIGKILL, "hang": signal.SIGSTOP}
#: How an input begins that does it to an emulated worker.
_INPUTS: Final[dict[Kind, bytes]] = {"slow": SLOWING, "poison": DEADLY}
#: Such a request has the time to kill two workers and to be told of it.
_SLO_MS: Final = 10_000.0


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One that was done. ``at_s`` counts from the start of the load, ``epoch_s`` is the date that logs show."""

    kind: Kind
    at_s: float
    epoch_s: float
    pid: int | None = None
    """The worker that it was done to; None for an input."""
    answer: str = ""
    """What the sender of the input was told, if not what it asked for."""


class Injector:
    """Does something to a random worker now and then.

    Args:
        router: the server's process.
        url: of the server, which inputs are sent to.
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

    async def run(self, seconds: float, every_s: float, begun: asyncio.Event | None = None) -> None:
        """Do it every so many seconds, for so many; return when everything that was begun has ended.

        Args:
            seconds: of load.
            every_s: from one fault to the next.
            begun: set when the load begins; default: it has begun.
        """
        # Connected before there is a load: while a worker hangs, that may take all connections there are.
        async with AsyncClient(self._url, retries=Retries(max_attempts=1)) as client:
            (tensor,) = (await client.metadata(self._model)).inputs
            if begun is not None:
                await begun.wait()
            began_s = time.monotonic()
            for number, at_s in enumerate(due_s(seconds, every_s)):
                await asyncio.sleep(max(0.0, began_s + at_s - time.monotonic()))
                self._do(self._kinds[number % len(self._kinds)], time.monotonic() - began_s, client, tensor)
            await asyncio.gather(*self._tasks)

    def _do(self, kind: Kind, at_s: float, client: AsyncClient, tensor: TensorMetadata) -> None:
        if kind in _INPUTS:
            task = asyncio.ensure_future(self._send(kind, at_s, client, tensor))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif pids := worker_pids(self._router):
            pid = int(self._rng.choice(pids))
            self.done.append(Fault(kind=kind, at_s=at_s, epoch_s=time.time(), pid=pid))
            os.kill(pid, _SIGNALS[kind])

    async def _send(self, kind: Kind, at_s: float, client: AsyncClient, tensor: TensorMetadata) -> None:
        epoch_s, answer = time.time(), ""
        row = np.zeros([max(1, size) for size in tensor.shape], np.uint8)
        row.reshape(-1)[: len(DEADLY)] = list(_INPUTS[kind])
        try:
            await client.infer(self._model, {tensor.name: row}, slo_ms=_SLO_MS)
        except SuperServeError as error:
            answer = str(error)
        self.done.append(Fault(kind=kind, at_s=at_s, epoch_s=epoch_s, answer=answer))


def due_s(seconds: float, every_s: float) -> Iterator[float]:
    """When something is done: from half an interval after the start, and not within two intervals of the end."""
    return takewhile(lambda at_s: at_s <= seconds - 2 * every_s, count(every_s / 2, every_s))


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
