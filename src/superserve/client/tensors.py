"""numpy arrays to tensors on the wire and back: the same bytes for HTTP's binary data and gRPC's raw contents."""

from collections.abc import Iterable, Sequence
from math import prod
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from superserve.errors import InvalidRequestError
from superserve.model_folder import BYTES, DTYPES
from superserve.protocol.byte_strings import join, split

Array = npt.NDArray[Any]
Buffer = bytes | memoryview

_BF16: Final = "BF16"
#: numpy has no bfloat16; packages that add it call it so.
_BF16_DTYPE: Final = "bfloat16"

_NAME_OF_DTYPE: Final = {dtype.newbyteorder("<"): name for name, dtype in DTYPES.items() if name != _BF16}


def datatype_of(array: Array) -> str:
    """The protocol's name of an array's dtype: BYTES for text and objects, BF16 for what ``ml_dtypes`` calls bfloat16.

    Raises:
        InvalidRequestError: for a dtype that the protocol does not have.
    """
    if array.dtype.kind in "OSU":
        return BYTES
    if array.dtype.name == _BF16_DTYPE:
        return _BF16
    name = _NAME_OF_DTYPE.get(array.dtype.newbyteorder("<"))
    if name is None:
        known = ", ".join((*DTYPES, BYTES))
        raise InvalidRequestError(f"dtype {array.dtype} has no V2 datatype; use one of {known}")
    return name


def to_wire(array: Array) -> Buffer:
    """An array as the protocol sends it, little-endian and row-major: a view of it where it lies so already.

    Raises:
        InvalidRequestError: for an array of objects that are neither `bytes` nor `str`.
    """
    if array.dtype.kind in "OSU":
        return join(map(_element, array.ravel()))
    if array.dtype.name == _BF16_DTYPE:
        array = array.view(DTYPES[_BF16])
    plain = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return plain.reshape(-1).view(np.uint8).data


def _element(element: object) -> bytes:
    if isinstance(element, str):
        return element.encode()
    if isinstance(element, bytes):
        return element
    raise InvalidRequestError(f"elements of BYTES must be bytes or str, not {type(element).__name__}")


def from_wire(name: str, datatype: str, shape: Sequence[int], data: Buffer) -> Array:
    """An output tensor from its bytes, as a view of them where numpy has the datatype.

    Raises:
        ValueError: if they do not fit datatype and shape.
    """
    if datatype == BYTES:
        return from_elements(name, datatype, shape, map(bytes, split(data)))
    dtype = DTYPES.get(datatype)
    if dtype is None:
        raise ValueError(f"output {name!r} has unknown datatype {datatype!r}")
    if len(data) != dtype.itemsize * prod(shape):
        raise ValueError(f"output {name!r} has {len(data)} bytes for shape {list(shape)} of {datatype}")
    array = np.frombuffer(data, dtype).reshape(shape)
    return _widened(array) if datatype == _BF16 else array


def _widened(bits: Array) -> Array:
    """Every bfloat16 is the upper half of the float32 of the same value."""
    return (bits.astype("<u4") << 16).view("<f4")


def from_elements(name: str, datatype: str, shape: Sequence[int], elements: Iterable[Any]) -> Array:
    """An output tensor from its elements one by one, nested or flat.

    Raises:
        ValueError: if they do not fit datatype and shape.
    """
    if datatype == BYTES:
        flat = [_element(element) for element in np.array(list(elements), object).flat]
        array = np.empty(len(flat), object)
        array[:] = flat
        return array.reshape(shape)
    dtype = DTYPES.get(datatype)
    if dtype is None or datatype == _BF16:
        raise ValueError(f"output {name!r} has no elements of datatype {datatype!r}")
    try:
        return np.array(list(elements), dtype).reshape(shape)
    except (OverflowError, TypeError) as error:
        raise ValueError(f"output {name!r}: {error}") from None
