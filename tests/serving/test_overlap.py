"""A worker whose engine overlaps batches, its router's end of the socket in the test's hands."""

import mmap
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from superserve.engine import IN_FLIGHT
from superserve.model_folder import TensorSpec
from superserve.serving.ipc import (
    Channel,
    Done,
    Failed,
    FromWorker,
    Launch,
    RouterSlots,
    SlotLayout,
    ToWorker,
    WorkerSlots,
    WorkerSpec,
    router_channel,
)
from superserve.serving.overlap import Overlap, OverlapModel
from superserve.serving.pool import Batch

SPEC = WorkerSpec(
    engine="none",
    options={},
    inputs=(TensorSpec("x", "FP32", (-1,)),),
    outputs=(TensorSpec("y", "FP32", (-1,)),),
    max_rows=4,
    warm_batches=(1,),
    in_flight=IN_FLIGHT,
    spare_us=1_000,
)
CURSED, DOOMED, ODD = 13.0, 14.0, 15.0
MS = 1_000_000


class Doubler:
    """y = 2 x at subnet 0, 3 x at subnet 1. Like a device it reads its inputs late: when the batch is collected."""

    name, dtype, subnet_ids, device_ns = "doubler", "float32", ("a", "b"), 0

    def __init__(self) -> None:
        self.events: list[str] = []
        self.looks: deque[Callable[[], object]] = deque()
        """What happens when the worker looks whether a batch is done, which it is when nothing is left."""
        self.wishes = 0
        self._flight: deque[tuple[int, npt.NDArray[Any]]] = deque()

    def actuate(self, subnet: int) -> None:
        raise AssertionError(f"subnet {subnet}: submit does it")

    def run(self, subnet: int, inputs: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        raise AssertionError(f"subnet {subnet}, {len(inputs)} inputs: batches are submitted")

    def submit(self, subnet: int, inputs: Sequence[npt.NDArray[Any]]) -> None:
        (x,) = inputs
        assert len(self._flight) < IN_FLIGHT
        if CURSED in x:
            raise ArithmeticError("cursed")
        self.events.append("submit")
        self._flight.append((subnet, x))

    def done(self) -> bool:
        if self.looks:
            self.looks.popleft()()
            return False
        return True

    def collect(self) -> list[npt.NDArray[Any]]:
        self.events.append("collect")
        subnet, x = self._flight.popleft()
        if DOOMED in x:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        if ODD in x:
            return [x.astype(np.float64)]
        self.device_ns += 5
        return [(subnet + 2) * x]

    def spare(self, limit_ns: int | None) -> bool:
        assert not self._flight
        self.events.append(f"spare {limit_ns}")
        self.wishes -= 1
        return self.wishes >= 0

    def pin(self, memory: npt.NDArray[np.uint8]) -> None:
        raise AssertionError(f"{len(memory)} bytes: the worker did before")


class Patient(Channel[ToWorker]):
    """Remembers for how long it was asked to wait, and does not."""

    asked: list[int]

    def waits(self, timeout_ms: int = 0) -> bool:
        if timeout_ms:
            self.asked.append(timeout_ms)
        return super().waits()


class Bench:
    """A worker in this process and its router."""

    def __init__(self, *specs: WorkerSpec) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        theirs.settimeout(10)  # a worker that waits for what never comes fails its test, and does not hang
        self.router: Channel[FromWorker] = router_channel(ours)
        self.worker = Patient(theirs, msgspec.msgpack.Decoder(ToWorker))
        self.worker.asked = []
        layouts = SlotLayout.of(dict(enumerate(specs)))
        region = mmap.mmap(-1, layouts[0].size)
        self.slots = [RouterSlots(layout, region) for layout in layouts.values()]
        self.engines = [Doubler() for _ in specs]
        self._models = {
            number: OverlapModel(spec, WorkerSlots(layouts[number], region), self.engines[number])
            for number, spec in enumerate(specs)
        }

    @property
    def engine(self) -> Doubler:
        return self.engines[0]

    def launch(self, seq: int, *numbers: float, subnet: int = 0, model: int = 0) -> None:
        data = np.array(numbers, "<f4").tobytes()
        self.slots[model].write(Batch(subnet, len(numbers), [[data]]), seq)
        self.router.send(Launch(seq, subnet, len(numbers), model))

    def serve(self) -> list[FromWorker]:
        self.router.half_close()
        return self.until_closed()

    def until_closed(self) -> list[FromWorker]:
        Overlap(self.worker, self._models, self.worker.send).serve()
        self.worker.close()
        found: list[FromWorker] = []
        while (message := self.router.receive()) is not None:
            found.append(message)
        return found

    def close(self) -> None:
        self.router.close()
        self.worker.close()

    def outputs(self, seq: int, rows: int = 1, model: int = 0) -> list[float]:
        found: list[float] = np.frombuffer(bytes(self.slots[model].outputs(seq, rows)[0]), "<f4").tolist()
        return found


@pytest.fixture
def bench() -> Iterator[Bench]:
    found = Bench(SPEC)
    yield found
    found.close()


def seqs(messages: Sequence[FromWorker]) -> list[tuple[str, int]]:
    return [(type(message).__name__, message.seq) for message in messages if isinstance(message, Done | Failed)]


def test_the_next_batch_is_begun_before_the_first_is_answered_and_not_the_one_after(bench: Bench) -> None:
    """Each has inputs and outputs of its own until it is answered."""
    bench.launch(1, 1, 2)
    bench.launch(2, 5, subnet=1)

    def third() -> None:
        # As the router would, it answers the first one while the second is under way.
        assert bench.outputs(1, 2) == [2, 4]
        bench.launch(3, 7)
        bench.router.half_close()
        assert bench.outputs(1, 2) == [2, 4]

    bench.engine.looks.extend([lambda: None, lambda: None])
    collect = bench.engine.collect

    def collect_and_look() -> list[npt.NDArray[Any]]:
        found = collect()
        if len(bench.engine.events) == 3:
            bench.engine.looks.append(third)
        return found

    bench.engine.collect = collect_and_look  # type: ignore[method-assign]
    messages = bench.until_closed()
    assert bench.engine.events == ["submit", "submit", "collect", "submit", "collect", "collect"]
    assert seqs(messages) == [("Done", 1), ("Done", 2), ("Done", 3)]
    assert (bench.outputs(2), bench.outputs(3)) == ([15], [14])
    assert [message.device_ns for message in messages if isinstance(message, Done)] == [5, 10, 15]


def test_a_batch_that_comes_while_one_is_computed_is_begun_at_once(bench: Bench) -> None:
    bench.launch(1, 1)

    def second() -> None:
        bench.launch(2, 2)
        bench.router.half_close()

    bench.engine.looks.extend([lambda: None, second, lambda: None])
    messages = bench.until_closed()
    assert bench.engine.events == ["submit", "submit", "collect", "collect"]
    assert seqs(messages) == [("Done", 1), ("Done", 2)]


@pytest.mark.parametrize(("bad", "error"), [(CURSED, "ArithmeticError: cursed"), (ODD, "ValueError: output 'y' is")])
def test_a_batch_that_raises_is_told_of_in_its_turn_and_the_others_are_answered(
    bench: Bench, bad: float, error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for seq, number in enumerate((1.0, bad, 3.0), 1):
        bench.launch(seq, number)
    messages = bench.serve()
    assert seqs(messages) == [("Done", 1), ("Failed", 2), ("Done", 3)]
    assert isinstance(messages[1], Failed)
    assert messages[1].message.startswith(error)
    assert bench.outputs(3) == [6]
    assert "Traceback" in capsys.readouterr().err


def test_a_device_that_fails_ends_its_worker(bench: Bench) -> None:
    """What was answered before has been told; a process whose device has failed can do nothing more with it."""
    bench.launch(1, 1)
    bench.launch(2, DOOMED)
    bench.launch(3, 3)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        bench.serve()
    assert isinstance(done := bench.router.receive(), Done)
    assert done.seq == 1
    assert bench.engine.events == ["submit", "submit", "collect", "submit", "collect"]


def test_a_batch_behind_another_is_timed_from_when_it_had_the_device(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a plan would count the same time twice."""
    now = iter([10 * MS, 11 * MS, 20 * MS, 26 * MS])
    monkeypatch.setattr("superserve.serving.overlap.monotonic_ns", lambda: next(now))
    bench.launch(1, 1)
    bench.launch(2, 2)
    times = [(message.infer_ns, message.waited_ns) for message in bench.serve() if isinstance(message, Done)]
    assert times == [(10 * MS, 0), (6 * MS, 9 * MS)]


def test_what_nobody_waits_for_is_done_after_a_quiet_while_and_within_the_shortest_slo() -> None:
    """Of all models: a request of another one would wait as well."""
    bench = Bench(SPEC, msgspec.structs.replace(SPEC, spare_us=250_000))
    bench.engine.wishes = 2
    bench.launch(1, 1, model=1)
    spare = bench.engines[1].spare

    def last(limit_ns: int | None) -> bool:
        bench.router.half_close()
        return spare(limit_ns)

    bench.engines[1].spare = last  # type: ignore[method-assign]
    assert seqs(bench.until_closed()) == [("Done", 1)]
    assert bench.engine.events == ["spare 1000000"] * 3
    assert bench.engines[1].events == ["submit", "collect", "spare 1000000"], "not before the batch that waited"
    assert bench.worker.asked == [4] * 5, "four times what it may take, each time"
    bench.close()


def test_a_worker_that_is_to_end_answers_what_is_in_flight(bench: Bench) -> None:
    bench.launch(1, 1)
    bench.engine.looks.append(bench.router.half_close)
    assert seqs(bench.until_closed()) == [("Done", 1)]
