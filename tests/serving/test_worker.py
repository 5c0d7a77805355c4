"""The worker's main loop in this process: the test holds the router's end, its messages waiting in the socket."""

import os
import socket
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from superserve.engine import Engine
from superserve.model_folder import TensorSpec
from superserve.serving.ipc import (
    Channel,
    Done,
    Failed,
    FromWorker,
    Launch,
    Ready,
    Reside,
    Resident,
    RouterSlots,
    Setup,
    SlotLayout,
    StartFailed,
    ToWorker,
    WorkerSpec,
    router_channel,
    worker_channel,
)
from superserve.serving.pool import Batch
from superserve.serving.worker import run_worker

SPEC = WorkerSpec(
    engine=f"{__name__}:create",
    options={},
    inputs=(TensorSpec("x", "FP32", (-1,)),),
    outputs=(TensorSpec("y", "FP32", (-1,)),),
    max_rows=4,
    warm_batches=(1, 4),
)
CURSED = 13.0


class Doubler:
    """y = 2 x at subnet 0, 3 x at subnet 1; remembers what it was asked."""

    name, dtype, subnet_ids = "doubler", "float32", ("a", "b")

    def __init__(self) -> None:
        self.ran: list[tuple[int, list[float]]] = []
        self.actuated: list[int] = []

    def actuate(self, subnet: int) -> None:
        self.actuated.append(subnet)

    def run(self, subnet: int, inputs: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        (x,) = inputs
        self.ran.append((subnet, x.tolist()))
        if CURSED in x:
            raise ArithmeticError("cursed")
        return [(subnet + 2) * x]


class Bench:
    """The router's side of a worker that runs in this process."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.engine = Doubler()
        self.router: Channel[FromWorker] = router_channel(ours)
        self.worker: Channel[ToWorker] = worker_channel(theirs)
        layout = SlotLayout(SPEC)
        self.memory_fd = os.memfd_create("test")
        os.ftruncate(self.memory_fd, layout.size)
        self.slots = RouterSlots(layout, layout.map(self.memory_fd))

    def run(self, *messages: ToWorker) -> int:
        for message in messages:
            self.router.send(message)
        self.router.half_close()
        return run_worker(self.worker, self.memory_fd)

    def said(self) -> list[FromWorker]:
        self.worker.close()
        found: list[FromWorker] = []
        while (message := self.router.receive()) is not None:
            found.append(message)
        return found

    def close(self) -> None:
        self.router.close()
        self.worker.close()
        self.slots.close()
        os.close(self.memory_fd)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    found = Bench()

    def load(_: Setup) -> Engine:
        return found.engine

    monkeypatch.setattr("superserve.serving.worker.load_engine", load)
    yield found
    found.close()


def test_every_cell_is_warm_before_it_is_ready_whatever_the_last_worker_left_behind(bench: Bench) -> None:
    bench.slots.write(Batch(0, 4, [[np.full(4, CURSED, "<f4").tobytes()]]))
    assert bench.run(Setup(0, SPEC)) == 0
    assert bench.engine.ran == [(0, [0.0]), (1, [0.0]), (0, [0.0] * 4), (1, [0.0] * 4)]
    (ready,) = bench.said()
    assert isinstance(ready, Ready)
    assert (ready.engine, ready.dtype, ready.subnet_ids) == ("doubler", "float32", ("a", "b"))


def test_answers_lie_in_the_slot_that_the_number_says(bench: Bench) -> None:
    bench.slots.write(Batch(0, 3, [[np.array([1, 2, 3], "<f4").tobytes()]]))
    cold = msgspec.structs.replace(SPEC, warm_batches=())
    assert bench.run(Setup(0, cold), Launch(7, 0, 3), Launch(8, 1, 2)) == 0
    assert bench.engine.ran == [(0, [1, 2, 3]), (1, [1, 2])]
    _, first, second = bench.said()
    assert isinstance(first, Done)
    assert isinstance(second, Done)
    assert (first.seq, second.seq) == (7, 8)
    assert first.infer_ns >= first.actuate_ns > 0
    assert np.frombuffer(bench.slots.outputs(7, 3)[0], "<f4").tolist() == [2, 4, 6]
    assert np.frombuffer(bench.slots.outputs(8, 2)[0], "<f4").tolist() == [3, 6]
    assert bench.engine.actuated == [0, 1]


def test_a_batch_that_raises_is_reported_and_the_next_one_runs(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench.engine, "actuate", _raise_on_subnet_1)
    assert bench.run(Setup(0, SPEC), Launch(1, 1, 1), Launch(2, 0, 1)) == 0
    _, failed, done = bench.said()
    assert failed == Failed(1, "ArithmeticError: no such subnet")
    assert isinstance(done, Done)
    assert "Traceback" in capsys.readouterr().err


def test_an_engine_that_cannot_be_loaded_is_reported(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    spec = msgspec.structs.replace(SPEC, engine="superserve.serving.worker:no_such_engine")
    assert bench.run(Setup(0, spec)) == 1
    (failed,) = bench.said()
    assert isinstance(failed, StartFailed)
    assert "no_such_engine" in failed.message


def test_a_router_that_is_gone_before_it_says_anything_is_no_error(bench: Bench) -> None:
    assert bench.run() == 0
    assert bench.said() == []


def test_a_router_that_is_gone_before_the_answer_is_no_error(bench: Bench) -> None:
    bench.router.send(Setup(0, SPEC))
    bench.router.send(Launch(1, 0, 1))
    bench.router.close()
    assert run_worker(bench.worker, bench.memory_fd) == 0


def _raise_on_subnet_1(subnet: int) -> None:
    if subnet == 1:
        raise ArithmeticError("no such subnet")


@pytest.mark.parametrize("background", [False, True])
def test_one_worker_runs_several_models(monkeypatch: pytest.MonkeyPatch, background: bool) -> None:
    """Each batch is run by the engine of its model, in slots that fit it; each model is told of before any batch."""
    wide = msgspec.structs.replace(
        SPEC, inputs=(TensorSpec("x", "FP32", (-1, 2)),), outputs=(TensorSpec("y", "FP32", (-1, 2)),)
    )
    specs = {3: SPEC, 5: wide}
    bench = Bench()
    engines = {model: Doubler() for model in specs}

    def load(setup: Setup) -> Engine:
        return engines[setup.model]

    monkeypatch.setattr("superserve.serving.worker.load_engine", load)
    layouts = SlotLayout.of(specs)
    os.ftruncate(bench.memory_fd, layouts[3].size)
    slots = {model: RouterSlots(layout, layout.map(bench.memory_fd)) for model, layout in layouts.items()}
    slots[5].write(Batch(0, 2, [[np.array([[1, 2], [3, 4]], "<f4").tobytes()]], model=5))
    cold = {model: msgspec.structs.replace(spec, warm_batches=()) for model, spec in specs.items()}
    bench.router.send(Setup(0, cold[3], 3, more=True))
    bench.router.send(Setup(0, cold[5], 5))
    bench.router.send(Launch(1, 1, 2, 5))
    bench.router.send(Launch(2, 0, 2, 3))
    bench.router.half_close()
    assert run_worker(bench.worker, bench.memory_fd, background=background) == 0
    first, second, *done = bench.said()
    assert [(ready.model, ready.more) for ready in (first, second) if isinstance(ready, Ready)] == [
        (3, True),
        (5, False),
    ]
    assert [message.seq for message in done if isinstance(message, Done)] == [1, 2]
    assert str(engines[5].ran) == "[(1, [[1.0, 2.0], [3.0, 4.0]])]"
    assert engines[3].ran == [(0, [1, 2])]
    assert np.frombuffer(slots[5].outputs(1, 2)[0], "<f4").tolist() == [3, 6, 9, 12]
    assert np.frombuffer(slots[3].outputs(2, 2)[0], "<f4").tolist() == [2, 4]
    for each in slots.values():
        each.close()
    bench.close()


class Overlapping(Doubler):
    """The same on a device that takes a batch while it computes another."""

    device_ns = 5

    def __init__(self) -> None:
        super().__init__()
        self.pinned: list[int] = []
        self.wishes = 3
        self._flight: list[list[npt.NDArray[Any]]] = []

    def submit(self, subnet: int, inputs: Sequence[npt.NDArray[Any]]) -> None:
        assert not self.wishes, "it has time for those before it is ready"
        self._flight.append(self.run(subnet, inputs))

    def done(self) -> bool:
        return True

    def collect(self) -> list[npt.NDArray[Any]]:
        return self._flight.pop(0)

    def spare(self, limit_ns: int | None) -> bool:
        if limit_ns is None:
            self.wishes -= 1
        return limit_ns is None and self.wishes > 0

    def pin(self, memory: npt.NDArray[np.uint8]) -> None:
        self.pinned.append(len(memory))


@pytest.mark.parametrize(
    ("engines", "in_flight", "overlaps"),
    [([Doubler], 2, False), ([Overlapping], 1, False), ([Overlapping], 2, True), ([Overlapping, Doubler], 2, False)],
)
def test_a_worker_says_whether_it_overlaps_batches(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, engines: list[type[Doubler]], in_flight: int, overlaps: bool
) -> None:
    """It does if all of its engines do, and there are slots for two."""
    monkeypatch.setattr("superserve.serving.worker.load_engine", lambda setup: engines[setup.model]())
    spec = msgspec.structs.replace(SPEC, in_flight=in_flight)
    os.ftruncate(bench.memory_fd, SlotLayout(spec).size)
    last = len(engines) - 1
    bench.run(*(Setup(0, spec, model, more=model < last) for model in range(len(engines))))
    assert [one.overlaps for one in bench.said() if isinstance(one, Ready)] == [overlaps] * len(engines)


def test_engines_that_overlap_batches_may_and_read_the_slots_themselves(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several models, one pins the memory that all of them share: to do so twice is an error of the driver's."""
    engines = [Overlapping(), Overlapping()]
    monkeypatch.setattr("superserve.serving.worker.load_engine", lambda setup: engines[setup.model])
    spec = msgspec.structs.replace(SPEC, in_flight=2)
    layout = SlotLayout(spec)
    os.ftruncate(bench.memory_fd, layout.size)
    slots = RouterSlots(layout, layout.map(bench.memory_fd))
    slots.write(Batch(0, 2, [[np.array([1, 2], "<f4").tobytes()]]), 1)
    assert bench.run(Setup(0, spec, 0, more=True), Setup(0, spec, 1), Launch(1, 0, 2, 1)) == 0
    _, _, done = bench.said()
    assert isinstance(done, Done)
    assert (done.seq, done.device_ns) == (1, 5)
    assert np.frombuffer(slots.outputs(1, 2)[0], "<f4").tolist() == [2, 4]
    assert [engine.pinned for engine in engines] == [[layout.size], []]
    slots.close()


class Mapping(Doubler):
    """An engine that has subnets resident, all but the last one."""

    def __init__(self) -> None:
        super().__init__()
        self.resided: list[tuple[int, ...]] = []

    def reside(self, subnets: Sequence[int]) -> tuple[int, ...]:
        self.resided.append(tuple(subnets))
        self.ran.append((-1, []))
        return tuple(subnet for subnet in subnets if subnet == 0)


def test_subnets_become_resident_before_it_is_ready_and_then_beside_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is asked for is done and told in that order; what is mapped keeps no batch waiting, what goes is gone."""
    bench, engine = Bench(), Mapping()

    def load(_: Setup) -> Engine:
        return engine

    monkeypatch.setattr("superserve.serving.worker.load_engine", load)
    cold = msgspec.structs.replace(SPEC, warm_batches=(), resident=(1,))
    assert bench.run(Setup(0, cold), Launch(1, 0, 1), Reside(0, (0, 1)), Launch(2, 1, 1), Reside(0, ())) == 0
    assert engine.resided == [(1,), (0, 1), ()]
    ran = [subnet for subnet, _ in engine.ran]
    assert (ran[:2], sorted(ran[2:4]), ran[4:]) == ([-1, 0], [-1, 1], [-1])
    ready, *said = bench.said()
    assert isinstance(ready, Ready)
    assert isinstance(said[0], Done)
    assert isinstance(said[-1], Resident)
    assert [each.subnets for each in said if isinstance(each, Resident)] == [(0,), ()]
    bench.close()
