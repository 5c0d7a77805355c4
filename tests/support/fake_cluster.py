"""A cluster without Ray: its actors run the worker's own code, in this process, when a test says so."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from typing import Any

import numpy as np

from superserve import __version__
from superserve.model_folder import TensorSpec
from superserve.serving import ray_models
from superserve.serving.devices import CPU
from superserve.serving.ipc import Setup, WorkerSpec
from superserve.serving.ray_actor import RayWorker
from superserve.serving.ray_kinds import Kind, Room, kinds_of
from superserve.serving.ray_messages import Hello, encode
from superserve.serving.ray_models import ModelSource


class FakeActor:
    """An actor that is placed by `start` and answers its calls in order, by `answer`."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.node = ""
        self.killed = False
        self.version = __version__
        self.waiting: list[tuple[str, tuple[Any, ...], Future[Any]]] = []
        self._live: Future[Any] = Future()
        self._worker = RayWorker()

    def call(self, method: str, *arguments: object) -> "Future[Any]":
        """See `Actor.call`."""
        if method == "live":
            return self._live
        future: Future[Any] = Future()
        if self._live.done():
            future.set_exception(ConnectionError("the node is gone"))
        else:
            self.waiting.append((method, arguments, future))
        return future

    def kill(self) -> None:
        """See `Actor.kill`."""
        self.killed = True

    def place(self, node: str) -> None:
        """It has found room, and says hello."""
        self.node = node
        method, _, future = self.waiting.pop(0)
        assert method == "hello"
        future.set_result(encode(Hello(self.version, node, "host", self.number)))

    def answer(self) -> str:
        """Do what it was asked for first; the method's name."""
        method, arguments, future = self.waiting.pop(0)
        future.set_result(getattr(self._worker, method)(*arguments))
        return method

    def say(self, data: bytes) -> None:
        """Answer something else instead."""
        self.waiting.pop(0)[2].set_result(data)

    def die(self, reason: str) -> None:
        """Every call fails."""
        for future in (self._live, *(waiting for *_, waiting in self.waiting)):
            future.set_exception(ConnectionError(reason))
        self.waiting.clear()


class FakeCluster:
    """See `superserve.serving.ray_calls.Cluster`.

    Attributes:
        actors: all that were made, in order; ``created``: of which kind.
        refused: nodes with the kind of worker, in order.
        puts: models whose files were put, in order.
    """

    def __init__(self, total: int = 3, free: int | None = None) -> None:
        self.kinds: Sequence[Kind] = kinds_of(CPU)
        self.actors: list[FakeActor] = []
        self.created: list[int] = []
        self.refused: list[tuple[str, int]] = []
        self.puts: list[str] = []
        self.going: set[str] = set()
        self.sized = [Room(total, total if free is None else free)]

    def rooms(self) -> Sequence[Room]:
        """See `Cluster.rooms`."""
        return self.sized

    def resources(self) -> Mapping[str, float]:
        """See `Cluster.resources`."""
        return {"CPU": float(self.sized[0].total)}

    def draining(self) -> set[str]:
        """See `Cluster.draining`."""
        return self.going

    def create(self, kind: int) -> FakeActor:
        """See `Cluster.create`."""
        self.created.append(kind)
        self.actors.append(FakeActor(len(self.actors)))
        return self.actors[-1]

    def put(self, source: ModelSource) -> object:
        """See `Cluster.put`."""
        self.puts.append(source.name)
        return ray_models.read(source)

    def refuse(self, node: str, kind: int) -> None:
        """See `Cluster.refuse`."""
        self.refused.append((node, kind))

    def why(self, error: BaseException) -> str:
        """See `Cluster.why`."""
        return str(error)


class Inline(Executor):
    """Runs everything at once, in the caller's thread."""

    def submit(self, work: "Callable[..., Any]", /, *arguments: Any, **named: Any) -> "Future[Any]":
        """See `Executor.submit`."""
        future: Future[Any] = Future()
        try:
            future.set_result(work(*arguments, **named))
        except Exception as error:  # noqa: BLE001
            future.set_exception(error)
        return future


class ToyEngine:
    """Answers y = (subnet + 1) * x + k; k = 201 raises."""

    name, dtype, subnet_ids = "toy", "float32", ("a", "b")

    def actuate(self, subnet: int) -> None:
        """See `Engine.actuate`."""

    def run(self, subnet: int, inputs: "Sequence[np.ndarray[Any, Any]]") -> "list[np.ndarray[Any, Any]]":
        """See `Engine.run`."""
        x, k = inputs
        if k[0] == 201:
            raise RuntimeError("this batch is cursed")
        return [(subnet + 1) * x + k[:, None]]


def create_toy(setup: Setup) -> ToyEngine:
    """The engine of `TOY`."""
    options = setup.spec.options
    if "message" in options:
        raise ValueError(options["message"])
    if options.get("broken", "") == options.get("device"):
        raise ValueError("no such device here")
    return ToyEngine()


TOY = WorkerSpec(
    engine="support.fake_cluster:create_toy",
    options={},
    inputs=(TensorSpec("x", "FP32", (-1, 4)), TensorSpec("k", "UINT8", (-1,))),
    outputs=(TensorSpec("y", "FP32", (-1, 4)),),
    max_rows=4,
    warm_batches=(1,),
)
