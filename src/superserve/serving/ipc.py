"""What crosses between the router and a worker process of this machine: small messages, and tensors in shared memory.

Messages go over a Unix ``SOCK_SEQPACKET`` pair, one msgpack value each; tensors never do. A batch's rows lie
contiguous in the input slot of a memory region that both processes map, and its outputs in one of two output slots
that take turns, so that the next batch may start while the router still looks at the last answer. A worker that takes
further batches while it computes has as many more slots of both kinds.
"""

import mmap
import select
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any, Final, Generic, TypeVar

import msgspec
import numpy as np
from msgspec import Meta

from superserve.errors import SuperServeError
from superserve.model_folder import TensorSpec
from superserve.serving.pool import Batch

#: No message is larger; `Ready` with a few hundred subnet ids is the largest by far.
MAX_MESSAGE_BYTES: Final = 65_536

#: Error texts are cut to this many characters, so that every message stays below `MAX_MESSAGE_BYTES`.
MAX_TEXT: Final = 4_000

#: Tensors start on cache lines.
_ALIGNMENT: Final = 64


class WorkerSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every worker of a pool is to run.

    ``engine`` is ``module:function``; the function takes the `Setup` and returns a `superserve.engine.Engine`, and
    finds what it needs besides the tensors in ``options``. ``warm_batches`` are the batch sizes that each subnet runs
    before the worker is ready. ``inheritable``: a process that is forked may go on with a loaded engine; it has no
    threads, no device, and nothing in which one worker's differs from another's. ``in_flight``: batches that a worker
    may have been given and not answered. ``spare_us``: how long a request may have to wait that comes when a worker has
    just begun something that makes later batches faster. ``resident``: the subnets that a
    `superserve.engine.ResidentEngine` has resident from the start.
    """

    engine: str
    options: dict[str, str | int | float | bool]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_rows: int
    warm_batches: tuple[int, ...]
    inheritable: bool = False
    in_flight: Annotated[int, Meta(ge=1)] = 1
    spare_us: Annotated[int, Meta(ge=0)] = 0
    resident: tuple[int, ...] = ()


class Setup(msgspec.Struct, frozen=True, tag="setup", array_like=True):
    """To a worker, first: who it is and what it runs. One for each model; ``more`` says that another follows.

    To the template, too: what its workers will run, whoever they are.
    """

    worker: int
    spec: WorkerSpec
    model: int = 0
    more: bool = False


class Launch(msgspec.Struct, frozen=True, tag="launch", array_like=True):
    """To a worker: run the rows in the input slot. ``seq`` counts the batches of this worker process."""

    seq: int
    subnet: int
    rows: int
    model: int = 0


class Reside(msgspec.Struct, frozen=True, tag="reside", array_like=True):
    """To a worker: have exactly these subnets of a model resident, from here on in the order of messages."""

    model: int
    subnets: tuple[int, ...]


class Ready(msgspec.Struct, frozen=True, tag="ready", array_like=True):
    """From a worker, once for each model, when all of them are warm. ``more`` says that another follows.

    ``torch`` is the version that the engine imported, or ``none``; ``device`` the name of what it runs on, see
    `superserve.serving.devices.device_of`. ``overlaps``: it takes a second batch while it runs one, and begins it.
    """

    engine: str
    dtype: str
    torch: str
    subnet_ids: tuple[str, ...]
    load_ns: int
    warm_ns: int
    model: int = 0
    more: bool = False
    device: str = ""
    overlaps: bool = False


class Fork(msgspec.Struct, frozen=True, array_like=True):
    """To the template: fork a worker, pinned to a core. Its socket, memory and output come along as descriptors."""

    core: int
    background: bool = False


class Started(msgspec.Struct, frozen=True, tag="started", array_like=True):
    """From a worker, first: its process id."""

    pid: int


class StartFailed(msgspec.Struct, frozen=True, tag="start-failed", array_like=True):
    """From a worker, instead of `Ready`, or from the template, instead of `Started`: why it cannot start; it ends."""

    message: str


class Done(msgspec.Struct, frozen=True, tag="done", array_like=True):
    """From a worker: the outputs of batch ``seq`` are in its output slot.

    ``device_ns`` is what it took by the clock of a device beside the processor; 0 where there is none. ``waited_ns`` is
    how long it was there before the worker was through with the one before it; ``infer_ns`` counts from then on.
    """

    seq: int
    infer_ns: Annotated[int, Meta(ge=0)]
    actuate_ns: Annotated[int, Meta(ge=0)]
    device_ns: Annotated[int, Meta(ge=0)] = 0
    waited_ns: Annotated[int, Meta(ge=0)] = 0


class Failed(msgspec.Struct, frozen=True, tag="failed", array_like=True):
    """From a worker: batch ``seq`` raised; the worker lives."""

    seq: int
    message: str


class Resident(msgspec.Struct, frozen=True, tag="resident", array_like=True):
    """From a worker, for each `Reside`: those of its subnets that are resident now."""

    model: int
    subnets: tuple[int, ...]


ToWorker = Setup | Launch | Reside
FromWorker = Started | Ready | StartFailed | Done | Failed | Resident

_ENCODER: Final = msgspec.msgpack.Encoder()
_Received = TypeVar("_Received", ToWorker, FromWorker)


class Channel(Generic[_Received]):
    """One end of the message socket. Blocking or not as the socket is."""

    def __init__(self, sock: socket.socket, decoder: "msgspec.msgpack.Decoder[_Received]") -> None:
        self._socket = sock
        self._decoder: msgspec.msgpack.Decoder[_Received] = decoder
        self._buffer = bytearray(MAX_MESSAGE_BYTES)
        self._view = memoryview(self._buffer)
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)

    def waits(self, timeout_ms: int = 0) -> bool:
        """Whether a message is there, or the peer is gone; waits for either for so long at most."""
        return bool(self._poll.poll(timeout_ms))

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    def send(self, message: ToWorker | FromWorker) -> None:
        """Send one message.

        Raises:
            OSError: if the peer is gone.
        """
        data = _ENCODER.encode(message)
        assert len(data) <= MAX_MESSAGE_BYTES, f"a message of {len(data)} bytes"
        self._socket.send(data)

    def receive(self) -> _Received | None:
        """The next message; None once the peer is gone.

        Raises:
            BlockingIOError: if there is none yet and the socket does not block.
        """
        try:
            size = self._socket.recv_into(self._buffer)
        except ConnectionResetError:  # said once, if the peer ended with a message of ours unread; then what it sent
            size = self._socket.recv_into(self._buffer)
        return self._decoder.decode(self._view[:size]) if size else None

    def half_close(self) -> None:
        """Let the peer read the end of the stream; what it still sends arrives."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close the socket, and give back the buffer: who keeps this object waits for the collector; idempotent."""
        self._socket.close()
        self._view.release()
        self._buffer = bytearray()


def router_channel(sock: socket.socket) -> Channel[FromWorker]:
    """The router's end of a pair."""
    return Channel(sock, msgspec.msgpack.Decoder(FromWorker))


def worker_channel(sock: socket.socket) -> Channel[ToWorker]:
    """The worker's end of a pair."""
    return Channel(sock, msgspec.msgpack.Decoder(ToWorker))


class SlotLayout:
    """Where a model's tensors lie in a worker's shared memory, in bytes from its start.

    A worker's batches come one after the other, whatever the model, so that its models share the slots. Each slot has
    room for the largest: the next batch's inputs must not touch the outputs that the router still looks at.

    Args:
        spec: the model.
        others: the other models of the worker.

    Attributes:
        inputs: for each input slot the offset of each input tensor, which has room for ``max_rows`` rows. There are as
            many as batches may be in flight, and they take turns.
        outputs: the same for output slots, of which there is one more.
        size: bytes in all, at least 1.
    """

    def __init__(self, spec: WorkerSpec, others: Sequence[WorkerSpec] = ()) -> None:
        self.spec = spec
        specs = (spec, *others)
        in_flight = max(each.in_flight for each in specs)
        in_size = max(_place(each.inputs, each.max_rows, 0)[1] for each in specs)
        out_size = max(_place(each.outputs, each.max_rows, 0)[1] for each in specs)
        out_start = in_flight * in_size
        self.inputs = [_place(spec.inputs, spec.max_rows, slot * in_size)[0] for slot in range(in_flight)]
        self.outputs = [
            _place(spec.outputs, spec.max_rows, out_start + slot * out_size)[0] for slot in range(in_flight + 1)
        ]
        self.size = max(out_start + len(self.outputs) * out_size, 1)

    @classmethod
    def of(cls, specs: Mapping[int, WorkerSpec]) -> "dict[int, SlotLayout]":
        """The layouts of all models of a worker, which have the same size."""
        return {model: cls(spec, tuple(specs.values())) for model, spec in specs.items()}

    def map(self, memory_fd: int) -> mmap.mmap:
        """Map the region, its pages in place already: the first batches take no page faults."""
        return mmap.mmap(memory_fd, self.size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)


class RouterSlots:
    """The router's view of a worker's slots: it writes inputs and reads outputs, as bytes."""

    def __init__(self, layout: SlotLayout, region: mmap.mmap) -> None:
        self._layout = layout
        self._region = region
        self._memory = memoryview(region)
        spec = layout.spec
        self._input_bytes = [tensor.row_bytes for tensor in spec.inputs]
        self._output_bytes = [tensor.row_bytes for tensor in spec.outputs]

    def write(self, batch: Batch, seq: int = 0) -> None:
        """Copy a batch's rows into its input slot: the one copy between the socket and the model."""
        assert 0 < batch.rows <= self._layout.spec.max_rows, f"a batch of {batch.rows} rows"
        memory, slots = self._memory, self._layout.inputs
        for tensor, (start, row_bytes) in enumerate(zip(slots[seq % len(slots)], self._input_bytes, strict=True)):
            at = start
            for request in batch.inputs:
                data = request[tensor]
                memory[at : (at := at + len(data))] = data
            assert at - start == batch.rows * row_bytes, f"{at - start} bytes for {batch.rows} rows of input {tensor}"

    def outputs(self, seq: int, rows: int) -> list[memoryview]:
        """The bytes of each output tensor of batch ``seq``; as many batches later as there are slots they are gone."""
        slots = self._layout.outputs
        starts = slots[seq % len(slots)]
        return [
            self._memory[start : start + rows * row_bytes]
            for start, row_bytes in zip(starts, self._output_bytes, strict=True)
        ]

    def close(self) -> None:
        """Give the memory back; at once, unless somebody still holds a view of it."""
        self._memory.release()
        with suppress(BufferError):  # then the last view frees it
            self._region.close()


class WorkerSlots:
    """The worker's view of its slots: numpy arrays with room for ``max_rows`` rows."""

    def __init__(self, layout: SlotLayout, region: mmap.mmap) -> None:
        spec = layout.spec
        self._inputs = [_arrays(spec.inputs, starts, spec.max_rows, region) for starts in layout.inputs]
        self._outputs = [_arrays(spec.outputs, starts, spec.max_rows, region) for starts in layout.outputs]
        self._names = [tensor.name for tensor in spec.outputs]

    def batch(self, rows: int, seq: int = 0) -> list[np.ndarray[Any, Any]]:
        """The input arrays of a batch, (rows, *row_shape) each: views of shared memory."""
        return [array[:rows] for array in self._inputs[seq % len(self._inputs)]]

    def answer(self, seq: int, rows: int, outputs: Sequence[np.ndarray[Any, Any]]) -> None:
        """Copy a batch's outputs into its output slot.

        Raises:
            ValueError: if the engine's outputs are not what ``config.json`` says.
        """
        for name, slot, output in zip(self._names, self._outputs[seq % len(self._outputs)], outputs, strict=True):
            target = slot[:rows]
            if output.shape != target.shape or output.dtype != target.dtype:
                raise ValueError(
                    f"output {name!r} is {output.dtype} {output.shape}, but the model's config.json says"
                    f" {target.dtype} {target.shape}"
                )
            target[...] = output


def error_text(error: Exception) -> str:
    """What to say of an error: its own words where they are ours, its type too where they are not."""
    text = str(error) if isinstance(error, SuperServeError) else f"{type(error).__name__}: {error}"
    return text[:MAX_TEXT]


def _place(tensors: Sequence[TensorSpec], rows: int, start: int) -> tuple[tuple[int, ...], int]:
    """Offsets of tensors laid one after the other from ``start``, and the first free byte behind them."""
    offsets = []
    for tensor in tensors:
        offsets.append(start)
        start += -(-tensor.row_bytes * rows // _ALIGNMENT) * _ALIGNMENT
    return tuple(offsets), start


def _arrays(
    tensors: Sequence[TensorSpec], offsets: Sequence[int], rows: int, region: mmap.mmap
) -> list[np.ndarray[Any, Any]]:
    return [
        np.ndarray((rows, *tensor.row_shape), tensor.dtype, region, offset)
        for tensor, offset in zip(tensors, offsets, strict=True)
    ]
