"""Messages and slots, over a socket pair and a memory region of one process."""

import itertools
import os
import socket
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from superserve.model_folder import TensorSpec
from superserve.serving.ipc import (
    MAX_MESSAGE_BYTES,
    MAX_TEXT,
    Channel,
    Done,
    Failed,
    FromWorker,
    Launch,
    Ready,
    RouterSlots,
    Setup,
    SlotLayout,
    StartFailed,
    ToWorker,
    WorkerSlots,
    WorkerSpec,
    router_channel,
    worker_channel,
)
from superserve.serving.pool import Batch

SPEC = WorkerSpec(
    engine="module:function",
    options={"a": 1, "b": "x", "c": True, "d": 0.5},
    inputs=(TensorSpec("image", "UINT8", (-1, 3, 5)), TensorSpec("scale", "FP32", (-1,))),
    outputs=(TensorSpec("logits", "FP32", (-1, 7)), TensorSpec("label", "INT64", (-1,))),
    max_rows=4,
    warm_batches=(1, 4),
)

Pair = tuple[Channel[FromWorker], Channel[ToWorker]]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    router, worker = router_channel(ours), worker_channel(theirs)
    yield router, worker
    router.close()
    worker.close()


@pytest.fixture
def slots() -> Iterator[tuple[RouterSlots, WorkerSlots]]:
    layout = SlotLayout(SPEC)
    memory_fd = os.memfd_create("test")
    os.ftruncate(memory_fd, layout.size)
    router = RouterSlots(layout, layout.map(memory_fd))
    yield router, WorkerSlots(layout, layout.map(memory_fd))
    router.close()
    os.close(memory_fd)


def test_messages_arrive_as_they_were_sent(pair: Pair) -> None:
    """Each kind, in order, without being joined or split."""
    router, worker = pair
    down: list[ToWorker] = [Setup(3, SPEC), Launch(1, 2, 16)]
    up: list[FromWorker] = [
        Ready("eager", "float32", "none", ("a", "b"), 5, 6),
        StartFailed("because"),
        Done(1, 10**10, 7),
        Failed(2, "x" * MAX_TEXT),
    ]
    for to_worker in down:
        router.send(to_worker)
    for from_worker in up:
        worker.send(from_worker)
    assert [worker.receive() for _ in down] == down
    assert [router.receive() for _ in up] == up


def test_the_largest_message_that_is_meant_to_arrive_does(pair: Pair) -> None:
    """500 subnets of long names, and an error of four-byte characters."""
    router, worker = pair
    for message in (Ready("e", "d", "t", tuple(f"{i:0100d}" for i in range(500)), 0, 0), Failed(1, "😀" * MAX_TEXT)):
        worker.send(message)
        assert router.receive() == message
    with pytest.raises(AssertionError, match="bytes"):
        worker.send(Failed(1, "x" * MAX_MESSAGE_BYTES))


def test_a_closed_end_is_the_end_of_the_stream(pair: Pair) -> None:
    """What was sent before it still arrives; an unread message at the other side changes nothing."""
    router, worker = pair
    worker.send(Done(1, 2, 3))
    router.send(Launch(1, 0, 1))
    worker.close()
    assert router.receive() == Done(1, 2, 3)
    assert router.receive() is None
    with pytest.raises(OSError, match="Broken pipe"):
        router.send(Launch(2, 0, 1))


def test_half_closing_lets_the_last_answer_through(pair: Pair) -> None:
    router, worker = pair
    router.half_close()
    assert worker.receive() is None
    worker.send(Done(1, 2, 3))
    assert router.receive() == Done(1, 2, 3)


def test_a_non_blocking_channel_says_that_there_is_nothing() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(0)
    with ours, theirs, pytest.raises(BlockingIOError):
        router_channel(ours).receive()


@pytest.mark.parametrize("in_flight", [1, 2, 3])
def test_tensors_do_not_overlap_and_start_on_cache_lines(in_flight: int) -> None:
    """Each batch in flight has its inputs, and one more has outputs that the router still looks at."""
    layout = SlotLayout(msgspec.structs.replace(SPEC, in_flight=in_flight))
    assert (len(layout.inputs), len(layout.outputs)) == (in_flight, in_flight + 1)
    spans = sorted(
        (start, start + SPEC.max_rows * tensor.row_bytes)
        for slots, tensors in ((layout.inputs, SPEC.inputs), (layout.outputs, SPEC.outputs))
        for starts in slots
        for start, tensor in zip(starts, tensors, strict=True)
    )
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))
    assert all(start % 64 == 0 for start, _ in spans)
    assert layout.size >= spans[-1][1]


def test_the_worker_sees_the_rows_in_request_order(slots: tuple[RouterSlots, WorkerSlots]) -> None:
    router, worker = slots
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (3, 3, 5), dtype=np.uint8)
    scale = rng.random(3, dtype=np.float32)
    router.write(
        Batch(
            0, 3, [[image[:2].tobytes(), memoryview(scale[:2].tobytes())], [bytearray(image[2:]), scale[2:].tobytes()]]
        )
    )
    seen_image, seen_scale = worker.batch(3)
    np.testing.assert_array_equal(seen_image, image)
    np.testing.assert_array_equal(seen_scale, scale)


def test_an_answer_outlives_the_next_one_but_not_the_one_after(slots: tuple[RouterSlots, WorkerSlots]) -> None:
    router, worker = slots

    def answer(seq: int) -> list[npt.NDArray[Any]]:
        outputs = [np.full((2, 7), seq, np.float32), np.array([seq, -seq])]
        worker.answer(seq, 2, outputs)
        return outputs

    first = answer(1)
    views = router.outputs(1, 2)
    assert [bytes(view) for view in views] == [output.tobytes() for output in first]
    answer(2)
    assert [bytes(view) for view in views] == [output.tobytes() for output in first]
    third = answer(3)
    assert [bytes(view) for view in views] == [output.tobytes() for output in third]
    for view in views:
        view.release()


@pytest.mark.parametrize(
    "outputs",
    [
        [np.zeros((2, 6), np.float32), np.zeros(2, np.int64)],
        [np.zeros((1, 7), np.float32), np.zeros(2, np.int64)],
        [np.zeros((2, 7)), np.zeros(2, np.int64)],
        [np.zeros((2, 7), np.float32)],
    ],
    ids=["shape", "would broadcast", "dtype", "number"],
)
def test_outputs_that_are_not_the_models_are_refused(
    slots: tuple[RouterSlots, WorkerSlots], outputs: list[npt.NDArray[Any]]
) -> None:
    with pytest.raises(ValueError, match=r"output 'logits' is|zip"):
        slots[1].answer(0, 2, outputs)


@pytest.mark.parametrize(
    ("rows", "image", "scale"),
    [(5, 75, 20), (0, 0, 0), (2, 29, 8), (2, 30, 4)],
    ids=["too many rows", "none", "bytes missing", "bytes of the second tensor missing"],
)
def test_a_batch_that_does_not_fit_is_our_own_mistake(
    slots: tuple[RouterSlots, WorkerSlots], rows: int, image: int, scale: int
) -> None:
    with pytest.raises(AssertionError):
        slots[0].write(Batch(0, rows, [[bytes(image), bytes(scale)]]))


def test_closing_while_an_answer_is_held_frees_nothing_under_it() -> None:
    layout = SlotLayout(SPEC)
    memory_fd = os.memfd_create("test")
    os.ftruncate(memory_fd, layout.size)
    router = RouterSlots(layout, layout.map(memory_fd))
    os.close(memory_fd)
    view = router.outputs(0, 1)[0]
    router.close()
    assert bytes(view) == bytes(28)


def test_models_of_one_worker_share_slots_that_never_overlap() -> None:
    """The next batch's inputs, of any model, leave the last outputs of any other as they are."""
    small = msgspec.structs.replace(SPEC, max_rows=1)
    wide = msgspec.structs.replace(
        SPEC, inputs=(TensorSpec("t", "FP64", (-1, 50)),), outputs=(TensorSpec("o", "UINT8", (-1,)),)
    )
    layouts = SlotLayout.of({0: SPEC, 4: small, 7: wide})
    assert len({layout.size for layout in layouts.values()}) == 1
    slots: list[set[range]] = [set(), set(), set()]
    for layout in layouts.values():
        for slot, starts, tensors in (
            (0, layout.inputs[0], layout.spec.inputs),
            (1, layout.outputs[0], layout.spec.outputs),
            (2, layout.outputs[1], layout.spec.outputs),
        ):
            slots[slot] |= {
                range(start, start + layout.spec.max_rows * tensor.row_bytes)
                for start, tensor in zip(starts, tensors, strict=True)
            }
    spans = [(min(span.start for span in slot), max(span.stop for span in slot)) for slot in slots]
    assert spans[0][1] <= spans[1][0] < spans[1][1] <= spans[2][0] < spans[2][1] <= layouts[0].size


def test_models_that_share_slots_have_as_many_as_the_most_batches_in_flight() -> None:
    layouts = SlotLayout.of({0: SPEC, 1: msgspec.structs.replace(SPEC, in_flight=2)})
    assert [(len(layout.inputs), len(layout.outputs)) for layout in layouts.values()] == [(2, 3), (2, 3)]


def test_the_inputs_of_a_batch_in_flight_are_left_alone() -> None:
    layout = SlotLayout(msgspec.structs.replace(SPEC, in_flight=2))
    memory_fd = os.memfd_create("test")
    os.ftruncate(memory_fd, layout.size)
    router, worker = RouterSlots(layout, layout.map(memory_fd)), WorkerSlots(layout, layout.map(memory_fd))
    os.close(memory_fd)
    for seq in (1, 2):
        router.write(Batch(0, 1, [[bytes([seq]) * 15, bytes(4)]]), seq)
    assert [worker.batch(1, seq)[0].max() for seq in (1, 2)] == [1, 2]
    router.close()


def test_whether_a_message_waits(pair: Pair) -> None:
    """The end of the stream is one."""
    router, worker = pair
    assert not worker.waits()
    router.send(Launch(1, 0, 1))
    assert worker.waits()
    worker.receive()
    assert not worker.waits()
    router.half_close()
    assert worker.waits(60_000)
