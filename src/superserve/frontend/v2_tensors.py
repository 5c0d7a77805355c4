"""Tensors as JSON: the ``data`` of an Open Inference Protocol V2 input to the bytes that it stands for. No I/O."""

import re
from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import Annotated, Any, Final

import msgspec
import numpy as np

from superserve.errors import InvalidRequestError
from superserve.model_folder import BYTES, DTYPES
from superserve.protocol.byte_strings import join
from superserve.serving.pool import Buffer

#: Datatypes without a JSON form (the protocol's words; Triton's for BF16).
RAW_ONLY: Final = frozenset({"FP16", "BF16"})

#: numpy has no more dimensions than this. The product of many large ones is a number of thousands of digits.
MAX_DIMENSIONS: Final = 32

_OPENING: Final = re.compile(rb"[\s\[]*")

_INT64_MAX: Final = 2**63 - 1


def dtype_of(name: str, datatype: str) -> np.dtype[Any] | None:
    """The numpy dtype of an input; None for BYTES.

    Raises:
        InvalidRequestError: if there is no such datatype.
    """
    dtype = DTYPES.get(datatype)
    if dtype is None and datatype != BYTES:
        known = ", ".join((*DTYPES, BYTES))
        raise InvalidRequestError(f"input {name!r}: datatype {datatype!r} is not one of {known}")
    return dtype


def from_json(name: str, datatype: str, shape: Sequence[int], data: msgspec.Raw) -> Buffer:
    """The bytes of a tensor whose elements stand in JSON, nested or flat.

    Raises:
        InvalidRequestError: naming the input, if they do not fit datatype or shape.
    """
    where = f"input {name!r}"
    dtype = dtype_of(name, datatype)
    if datatype in RAW_ONLY:
        raise InvalidRequestError(f"{where}: {datatype} has no JSON form: send it as binary data (binary_data_size)")
    raw = memoryview(data)
    if not raw.nbytes:
        raise InvalidRequestError(f"{where}: data is missing (or parameters.binary_data_size, for binary data)")
    values = _elements(where, datatype, shape, raw)
    try:
        with np.errstate(over="raise"):
            array = np.array(values, dtype or object)
    except (ValueError, OverflowError, FloatingPointError) as error:
        raise InvalidRequestError(f"{where}: data does not fit {datatype}: {error}") from None
    if (array.ndim > 1 and array.shape != tuple(shape)) or array.size != prod(shape):
        raise InvalidRequestError(f"{where}: data has shape {list(array.shape)}, but shape says {list(shape)}")
    return _strings(where, array) if dtype is None else array.tobytes()


def _strings(where: str, array: np.ndarray[Any, Any]) -> bytes:
    # Ragged lists of texts become an array of lists, where those of numbers are refused by numpy.
    if not all(isinstance(element, str) for element in array.flat):
        raise InvalidRequestError(f"{where}: data is nested unevenly")
    return join(element.encode() for element in array.flat)


def _elements(where: str, datatype: str, shape: Sequence[int], raw: memoryview) -> list[Any]:
    opening = _OPENING.match(raw)
    assert opening is not None, "the pattern matches anything"
    depth = opening.group().count(b"[")
    if depth != 1 and (depth != len(shape) or depth > MAX_DIMENSIONS):
        raise InvalidRequestError(
            f"{where}: data must be flat or nested as deeply as shape {list(shape)}, not {depth} deep"
        )
    try:
        return _data_decoder(datatype, depth).decode(raw)
    except msgspec.MsgspecError as error:
        raise InvalidRequestError(f"{where}: data: {error}") from None


@lru_cache(maxsize=128)
def _data_decoder(datatype: str, depth: int) -> "msgspec.json.Decoder[list[Any]]":
    kind: Any = float
    if datatype == BYTES:
        kind = str
    elif datatype == "BOOL":
        kind = bool
    elif DTYPES[datatype].kind in "iu":
        bounds = np.iinfo(DTYPES[datatype])
        # msgspec takes no bounds beyond 64 bits with sign; numpy refuses what is above.
        kind = Annotated[int, msgspec.Meta(ge=int(bounds.min), le=min(int(bounds.max), _INT64_MAX))]
        if datatype == "UINT64":
            kind = Annotated[int, msgspec.Meta(ge=0)]
    for _ in range(depth):
        kind = list[kind]
    return msgspec.json.Decoder(kind)
