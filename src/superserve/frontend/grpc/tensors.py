"""Typed tensor contents (``InferTensorContents``) to bytes and back."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from superserve.errors import InvalidRequestError
from superserve.frontend.v2_tensors import RAW_ONLY
from superserve.model_folder import BYTES, DTYPES, TensorSpec
from superserve.protocol.byte_strings import join
from superserve.protocol.contents import FIELDS
from superserve.protocol.messages import InferTensorContents
from superserve.serving.byte_strings import from_cells
from superserve.serving.pool import Buffer

#: What numpy may read a field's elements as without loss.
_WIDE: Final[dict[str, str]] = {"int_contents": "i8", "uint_contents": "i8"}


def from_contents(name: str, datatype: str, count: int, contents: Any) -> Buffer:
    """The bytes of a tensor whose elements stand in typed contents.

    Args:
        name: of the input.
        datatype: of the input; a known one.
        count: how many elements its shape says.
        contents: an ``InferTensorContents``.

    Raises:
        InvalidRequestError: naming the input, if they do not fit datatype or shape.
    """
    where = f"input {name!r}"
    if datatype in RAW_ONLY:
        raise InvalidRequestError(f"{where}: {datatype} has no typed contents: use raw_input_contents")
    field = FIELDS[datatype]
    others = [given.name for given, _ in contents.ListFields() if given.name != field]
    if others:
        raise InvalidRequestError(f"{where}: contents of {datatype} stand in {field}, not in {', '.join(others)}")
    values = getattr(contents, field)
    if len(values) != count:
        raise InvalidRequestError(f"{where}: {len(values)} elements in {field}, but its shape says {count}")
    if datatype == BYTES:
        return join(values)
    dtype = DTYPES[datatype]
    array = np.fromiter(values, _WIDE.get(field, dtype), count)
    if field in _WIDE and count:
        bounds = np.iinfo(dtype)
        if array.min() < bounds.min or array.max() > bounds.max:
            raise InvalidRequestError(f"{where}: {field} must be {bounds.min} to {bounds.max} for {datatype}")
    return array.astype(dtype, copy=False).tobytes()


def to_contents(output: memoryview, spec: TensorSpec) -> Any:
    """An output tensor as typed contents; its datatype must have them."""
    elements: Sequence[Any]
    elements = from_cells(output, spec) if spec.datatype == BYTES else np.frombuffer(output, spec.dtype).tolist()
    return InferTensorContents(**{FIELDS[spec.datatype]: elements})
