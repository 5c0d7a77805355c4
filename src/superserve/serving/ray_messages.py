"""What crosses between the router and a worker that is a Ray actor: a small head, and tensors behind it, as bytes.

Ray carries bytes as they are; of anything else it makes a pickle. Heads are the structs of ``ipc.py``, one msgpack
value each. No instant crosses, only durations: machines have no clock in common.
"""

import struct
from collections.abc import Iterable, Sequence
from typing import Final, TypeVar

import msgspec

from superserve.model_folder import TensorSpec
from superserve.serving.ipc import Done, Failed, Launch, Ready, Setup, StartFailed
from superserve.serving.pool import Buffer
from superserve.serving.ray_models import ModelSource

_LENGTH: Final = struct.Struct("<I")
_ENCODER: Final = msgspec.msgpack.Encoder()
_Head = TypeVar("_Head")


class Hello(msgspec.Struct, frozen=True, array_like=True):
    """From a worker, first: the version of SuperServe there, and where it is."""

    version: str
    node: str
    """Ray's id of the node."""
    host: str
    pid: int


class Load(msgspec.Struct, frozen=True, array_like=True):
    """To a worker: load these models. ``sources``: the folders that they come from; none for an emulated one."""

    setups: tuple[Setup, ...]
    sources: dict[int, ModelSource]


class Loaded(msgspec.Struct, frozen=True, tag="loaded", array_like=True):
    """From a worker: all models are warm."""

    models: tuple[Ready, ...]


class Missing(msgspec.Struct, frozen=True, tag="missing", array_like=True):
    """From a worker: its node has not got these models; it wants to be asked again, with their files."""

    models: tuple[int, ...]


LOAD: Final = msgspec.msgpack.Decoder(Load)
LOAD_ANSWER: Final = msgspec.msgpack.Decoder(Loaded | Missing | StartFailed)
HELLO: Final = msgspec.msgpack.Decoder(Hello)
LAUNCH: Final = msgspec.msgpack.Decoder(Launch)
ANSWER: Final[msgspec.msgpack.Decoder[Done | Failed]] = msgspec.msgpack.Decoder(Done | Failed)


def encode(message: msgspec.Struct) -> bytes:
    """A message without tensors."""
    return _ENCODER.encode(message)


def pack(head: Launch | Done | Failed, tensors: Iterable[Buffer] = ()) -> bytes:
    """A head and the bytes of tensors, one after the other: the one copy on this side of Ray."""
    encoded = _ENCODER.encode(head)
    return b"".join((_LENGTH.pack(len(encoded)), encoded, *tensors))


def unpack(data: bytes, decoder: "msgspec.msgpack.Decoder[_Head]") -> tuple[_Head, memoryview]:
    """The head, and what lies behind it.

    Raises:
        ValueError: if it is no such message.
    """
    view = memoryview(data)
    if len(view) < _LENGTH.size:
        raise ValueError(f"a message of {len(view)} bytes")
    end = _LENGTH.size + _LENGTH.unpack_from(view)[0]
    return decoder.decode(view[_LENGTH.size : end]), view[end:]  # msgspec's errors are ValueErrors


def split(data: memoryview, tensors: Sequence[TensorSpec], rows: int) -> list[memoryview]:
    """The bytes of each tensor of a batch.

    Raises:
        ValueError: if there are more or fewer than so many rows take.
    """
    sizes = [rows * tensor.row_bytes for tensor in tensors]
    if len(data) != sum(sizes):
        raise ValueError(f"{len(data)} bytes of tensors instead of {sum(sizes)} for {rows} rows")
    found, start = [], 0
    for size in sizes:
        found.append(data[start : start + size])
        start += size
    return found
