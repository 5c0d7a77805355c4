import hypothesis.strategies as st
import pytest
from hypothesis import given

from superserve.errors import InvalidRequestError
from superserve.model_folder import TensorSpec
from superserve.protocol.byte_strings import join, split
from superserve.serving.byte_strings import from_cells, to_cells, wire

TEXT = TensorSpec("text", "BYTES", (-1, 2), max_bytes=5)


@given(st.lists(st.binary(max_size=5), max_size=8).filter(lambda elements: len(elements) % 2 == 0))
def test_elements_go_through_cells_unchanged(elements: list[bytes]) -> None:
    """From the wire into cells and back, whatever their bytes."""
    cells = to_cells(join(elements), len(elements) // 2, TEXT)
    assert len(cells) == len(elements) // 2 * TEXT.row_bytes
    assert from_cells(memoryview(cells), TEXT) == elements
    assert wire(memoryview(cells), TEXT) == join(elements)
    assert [bytes(element) for element in split(join(elements))] == elements


@pytest.mark.parametrize(
    ("data", "pattern"),
    [
        (join([b"a"]), "1 elements of data, but its shape says 2"),
        (join([b"a"] * 3), "more elements of data"),
        (join([b"a", b"sixsix"]), "'text': an element of 6 bytes; the model takes 5"),
        (join([b"a", b"b"])[:-1], "an element of 1 bytes, but only 0 are left"),
        (join([b"a", b"b"]) + b"\0\0", "ends within the length"),
        (b"\xff\xff\xff\xff", "4294967295 bytes"),
        (b"", "0 elements"),
    ],
)
def test_lies_are_refused(data: bytes, pattern: str) -> None:
    """Lengths and counts are checked before anything is kept."""
    with pytest.raises(InvalidRequestError, match=pattern):
        to_cells(data, 1, TEXT)


@given(st.binary(max_size=40))
def test_noise_is_refused_or_fits(data: bytes) -> None:
    """Nothing else is raised."""
    try:
        cells = to_cells(data, 1, TEXT)
    except InvalidRequestError:
        return
    assert wire(memoryview(cells), TEXT) == data


def test_other_tensors_are_left_alone() -> None:
    """The very same view."""
    view = memoryview(b"1234")
    assert wire(view, TensorSpec("x", "FP32", (-1,))) is view
