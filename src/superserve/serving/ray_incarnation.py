"""A life of a worker as a Ray actor, as the router sees it."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import suppress
from typing import Any, Final, TypeVar

from superserve import __version__
from superserve.clock import Clock, Timer
from superserve.serving.incarnation import IncarnationOwner
from superserve.serving.ipc import Done, Failed, Launch, Ready, Setup, StartFailed, WorkerSpec
from superserve.serving.pool import Batch
from superserve.serving.ray_calls import Actor, Cluster
from superserve.serving.ray_messages import (
    ANSWER,
    HELLO,
    LOAD_ANSWER,
    Hello,
    Load,
    Loaded,
    Missing,
    encode,
    pack,
    split,
    unpack,
)
from superserve.serving.ray_models import ModelSource

#: Larger batches are handed to Ray by a thread: a call takes 0.1 ms with 3 KB, 0.3 with 96 and 1.2 with 600 (2-core
#: machine), and as long as it takes where Ray puts them into an object store that is full.
_MOST_AT_ONCE: Final = 100_000

_T = TypeVar("_T")


class RayIncarnation:
    """An actor from its creation to its end; see `superserve.serving.incarnation.Incarnation`.

    It waits for room in the cluster as long as that takes. From its first sign of life on its start is limited.

    Args:
        worker: its number.
        models: what it holds, by the pool's numbers.
        sources: where those that have a folder come from.
        owner: who hears of it.
        kind: which of the cluster's kinds of workers it is of.
        cluster: where its actor is.
        clock: drives limits.
        blocking: threads for what blocks.
    """

    def __init__(
        self,
        worker: int,
        models: Mapping[int, WorkerSpec],
        sources: Mapping[int, ModelSource],
        owner: IncarnationOwner,
        *,
        kind: int,
        cluster: Cluster,
        clock: Clock,
        blocking: Executor,
    ) -> None:
        self.engines: Mapping[int, Ready] = {}
        self._worker = worker
        self._models = models
        self._sources = {model: source for model, source in sources.items() if model in models}
        self._owner = owner
        self._kind = kind
        self._cluster = cluster
        self._clock = clock
        self._blocking = blocking
        self._loop: asyncio.AbstractEventLoop
        self._limit_ns = 0
        self._timer: Timer | None = None
        self._actor: Actor | None = None
        self._hello: Hello | None = None
        self._launched: Launch | None = None
        """What it runs."""
        self._seq = 0
        self._outputs: Sequence[memoryview] = ()
        self._stop_cause = ""
        self._over = False

    @property
    def pid(self) -> int | None:
        """See `Incarnation.pid`; on its own machine."""
        return None if self._hello is None else self._hello.pid

    @property
    def node(self) -> str | None:
        """Ray's id of the node where it is; None while it waits for room."""
        return None if self._hello is None else self._hello.node

    @property
    def place(self) -> str:
        """See `Incarnation.place`."""
        if self._hello is None:
            return "no node yet"
        return f"node {self._hello.node[:8]} ({self._hello.host}): process {self._hello.pid}"

    def start(self, loop: asyncio.AbstractEventLoop, limit_ns: int) -> None:
        """See `Incarnation.start`; nothing is refused at once."""
        self._loop = loop
        self._limit_ns = limit_ns
        self._when(self._blocking.submit(self._create), self._on_created)

    def launch(self, batch: Batch) -> None:
        """See `Incarnation.launch`."""
        assert self._launched is None, "busy"
        self._seq += 1
        launch = self._launched = Launch(self._seq, batch.subnet, batch.rows, batch.model)
        tensors = range(len(self._models[batch.model].inputs))
        data = pack(launch, [request[tensor] for tensor in tensors for request in batch.inputs])
        if len(data) <= _MOST_AT_ONCE:
            self._call(self._read_answer, self._on_answer, "run", data)
        else:
            self._blocking.submit(self._call, self._read_answer, self._on_answer, "run", data)

    def reside(self, model: int, subnets: Sequence[int]) -> None:
        """See `Incarnation.reside`: a `RayPool` offers nothing like it."""
        raise AssertionError(f"subnets {subnets} of model {model} cannot be resident on nodes")

    def outputs(self) -> Sequence[memoryview]:
        """See `Incarnation.outputs`."""
        return self._outputs

    def ask_to_stop(self, limit_ns: int, cause: str) -> None:
        """See `Incarnation.ask_to_stop`."""
        self._stop_cause = cause
        if self._launched is None:
            self.kill("asked to stop")
        else:
            self._limit(limit_ns, cause)

    def kill(self, cause: str) -> None:
        """See `Incarnation.kill`; nobody waits for Ray to do it."""
        if not self._over:
            self._loop.call_soon(self._end, cause)

    def _create(self) -> None:
        """In a thread; whatever happens meanwhile, no actor is forgotten."""
        actor = self._actor = self._cluster.create(self._kind)
        if self._over:
            actor.kill()

    def _on_created(self, _: None) -> None:
        self._call(_as_it_is, self._on_dead, "live")
        self._call(HELLO.decode, self._on_hello, "hello")

    def _on_hello(self, hello: Hello) -> None:
        self._hello = hello
        self._limit(self._limit_ns, "was not ready in time")
        if hello.version != __version__:
            self._fail(
                f"SuperServe {hello.version} is installed there, and {__version__} here: install the same version "
                "on all nodes"
            )
            return
        self._load()

    def _load(self, numbers: Sequence[int] = (), files: Sequence[object] = ()) -> None:
        setups = tuple(Setup(self._worker, spec, model) for model, spec in self._models.items())
        request = encode(Load(setups, self._sources))
        self._call(LOAD_ANSWER.decode, self._on_loaded, "load", request, tuple(numbers), *files)

    def _on_loaded(self, answer: Loaded | Missing | StartFailed) -> None:
        if isinstance(answer, StartFailed):
            self._fail(answer.message)
        elif isinstance(answer, Missing):
            sources = [self._sources[model] for model in answer.models]
            putting = self._blocking.submit(lambda: [self._cluster.put(source) for source in sources])
            self._when(putting, lambda files: self._load(answer.models, files))
        else:
            self._cancel_limit()
            self.engines = {engine.model: engine for engine in answer.models}
            if self.engines.keys() != self._models.keys():
                self._end(f"is ready for models {sorted(self.engines)} instead of {sorted(self._models)}")
            else:
                self._owner.on_ready(self)

    def _read_answer(self, data: bytes) -> Done | Failed:
        answer, rest = unpack(data, ANSWER)
        launch = self._launched
        if launch is None or answer.seq != launch.seq:
            raise ValueError(f"an answer to batch {answer.seq}, which it was not given")
        if isinstance(answer, Done):
            self._outputs = split(rest, self._models[launch.model].outputs, launch.rows)
        return answer

    def _on_answer(self, answer: Done | Failed) -> None:
        self._launched = None
        self._owner.on_answer(self, answer)
        if self._stop_cause:
            self.kill("asked to stop")

    def _on_dead(self, _: object) -> None:
        self._end("its process ended")

    def _fail(self, message: str) -> None:
        """It cannot start where it is; elsewhere it might."""
        assert self._hello is not None
        self._blocking.submit(self._cluster.refuse, self._hello.node, self._kind)
        self._owner.on_start_failed(self, f"{self.place}: {message}")
        self._end(message)

    def _call(self, read: Callable[[Any], _T], done: Callable[[_T], None], method: str, *arguments: object) -> None:
        """Call the actor, and have something done with what is read from its answer."""

        def answered(data: object) -> None:
            try:
                answer = read(data)
            except ValueError as wrong:  # nothing of what else it says can be trusted
                self._end(f"sent garbage: {wrong}")
            else:
                done(answer)

        assert self._actor is not None, "not created yet"
        self._when(self._actor.call(method, *arguments), answered)

    def _when(self, future: "Future[_T]", done: Callable[[_T], None]) -> None:
        """Have something done with a result, in the loop's thread; without a result this incarnation has ended."""

        def tell(ended: "Future[_T]") -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody wants to know
                self._loop.call_soon_threadsafe(self._tell, ended, done)

        future.add_done_callback(tell)

    def _tell(self, future: "Future[_T]", done: Callable[[_T], None]) -> None:
        if self._over:
            return
        error = future.exception()
        if error is None:
            done(future.result())
        else:
            self._end(self._cluster.why(error))

    def _end(self, reason: str) -> None:
        if self._over:
            return
        self._over = True
        self._cancel_limit()
        if self._actor is not None:
            self._blocking.submit(self._actor.kill)
        self._owner.on_exit(self, f"{self.place}: {reason}")

    def _limit(self, limit_ns: int, cause: str) -> None:
        self._cancel_limit()
        self._timer = self._clock.call_at(self._clock.now_ns() + limit_ns, lambda: self._end(cause))

    def _cancel_limit(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _as_it_is(answer: object) -> object:
    return answer
