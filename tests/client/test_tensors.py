from typing import Any

import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as hnp

from superserve.client.tensors import datatype_of, from_elements, from_wire, to_wire
from superserve.errors import InvalidRequestError
from superserve.model_folder import DTYPES
from superserve.protocol.byte_strings import join

NUMPYS = sorted(DTYPES.keys() - {"BF16"})


@pytest.mark.parametrize("kind", NUMPYS)
@given(data=st.data())
def test_arrays_go_there_and_back_bit_by_bit(kind: str, data: st.DataObject) -> None:
    """Of every datatype and any small shape, rows or none."""
    array = data.draw(hnp.arrays(DTYPES[kind], hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)))
    assert datatype_of(array) == kind
    back = from_wire("x", kind, array.shape, to_wire(array))
    assert (back.dtype, back.shape, back.tobytes()) == (array.dtype, array.shape, array.tobytes())


def test_tensors_go_out_little_endian_and_row_major() -> None:
    array = np.arange(6, dtype=">f4").reshape(2, 3).T
    assert datatype_of(array) == "FP32"
    assert np.array_equal(np.frombuffer(to_wire(array), "<f4").reshape(3, 2), array)


def test_what_lies_right_is_not_copied() -> None:
    array = np.zeros((2, 3), "<f4")
    assert np.shares_memory(np.frombuffer(to_wire(array), "<f4"), array)


def test_unknown_dtype_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="complex64"):
        datatype_of(np.zeros(1, np.complex64))


@pytest.mark.parametrize(
    ("array", "elements"),
    [
        (np.array(["a", "\u00e4\u00f6"]), [b"a", "\u00e4\u00f6".encode()]),
        (np.array([b"a", b"bc"]), [b"a", b"bc"]),
        (np.array([["x", b"\0"], [b"", "y"]], object), [b"x", b"\0", b"", b"y"]),
    ],
)
def test_text_and_bytes_are_bytes(array: np.ndarray[Any, Any], elements: list[bytes]) -> None:
    """numpy's texts, its bytes, and objects of either; back they are objects."""
    assert datatype_of(array) == "BYTES"
    assert to_wire(array) == join(elements)
    back = from_wire("x", "BYTES", array.shape, join(elements))
    assert (back.shape, back.ravel().tolist()) == (array.shape, elements)


def test_other_objects_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match="not int"):
        to_wire(np.array([1], object))


@given(hnp.arrays(np.uint16, 5))
def test_bfloat16_is_sent_as_it_is_and_comes_back_widened(bits: np.ndarray[Any, Any]) -> None:
    """Each float32 is the very number."""
    array = bits.view(ml_dtypes.bfloat16)
    assert datatype_of(array) == "BF16"
    assert to_wire(array) == bits.astype("<u2").tobytes()
    np.testing.assert_array_equal(from_wire("x", "BF16", (5,), to_wire(array)), array.astype(np.float32))


@pytest.mark.parametrize(
    ("datatype", "shape", "elements"),
    [("INT8", (1,), [1000]), ("INT8", (2,), [1]), ("FP32", (1,), ["x"]), ("BF16", (1,), [1]), ("NOPE", (1,), [1])],
)
def test_elements_that_do_not_fit_are_refused(datatype: str, shape: tuple[int, ...], elements: list[Any]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        from_elements("x", datatype, shape, elements)


def test_elements_may_be_nested() -> None:
    assert from_elements("x", "INT8", (2, 1), [[1], [2]]).tolist() == [[1], [2]]
    assert from_elements("x", "BYTES", (2, 1), [["a"], ["b"]]).tolist() == [[b"a"], [b"b"]]
