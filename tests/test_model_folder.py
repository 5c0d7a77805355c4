"""Strings in tensors, as clients give them and as a batch holds them; files of examples."""

from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from superserve.errors import ModelFolderError, UsageError
from superserve.model_folder import TensorSpec, load_examples
from superserve.protocol.byte_strings import join
from superserve.serving.byte_strings import to_cells

TEXT = TensorSpec("text", "BYTES", (-1, 2), max_bytes=9)
IMAGE = TensorSpec("image", "UINT8", (-1, 2))


@given(st.lists(st.tuples(st.binary(max_size=9), st.binary(max_size=9)), min_size=1, max_size=4))
def test_cells_are_those_that_a_server_makes_of_a_request(rows: list[tuple[bytes, bytes]]) -> None:
    packed = TEXT.packed(np.array(rows, object))
    wire = join(element for row in rows for element in row)
    assert packed.tobytes() == to_cells(wire, len(rows), TEXT)
    assert packed.shape == (len(rows), 2)


@given(st.lists(st.binary(max_size=9).filter(lambda text: not text.endswith(b"\0")), min_size=2, max_size=2))
def test_packed_strings_come_back(row: list[bytes]) -> None:
    assert TEXT.unpacked(TEXT.packed(np.array([row], object))).tolist() == [row]


def test_text_is_encoded_and_other_rows_stay_as_they_are() -> None:
    assert TEXT.packed(np.array([["é", "b"]])).tobytes() == TEXT.packed(np.array([["é".encode(), b"b"]])).tobytes()
    image = np.zeros((3, 2), np.uint8)
    assert IMAGE.packed(image) is image
    assert IMAGE.unpacked(image) is image
    packed = TEXT.longest(3)
    assert TEXT.packed(packed) is packed


def test_a_string_that_is_too_long_is_named() -> None:
    with pytest.raises(UsageError, match=r"'text'.*10 bytes.*takes 9"):
        TEXT.packed(np.array([["0123456789", ""]]))


def test_the_longest_rows_are_short_words_to_the_last_byte() -> None:
    assert TEXT.unpacked(TEXT.longest(1)).tolist() == [[b"a a a a a", b"a a a a a"]]
    assert IMAGE.longest(2).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "changed", "other arrays", "one array"])
def test_a_file_of_examples_that_cannot_be_read_is_named(tmp_path: Path, damage: str) -> None:
    """However: a copy may have stopped half-way, or it may be of something else."""
    file = tmp_path / "examples.npz"
    np.savez_compressed(file, inputs=np.arange(10_000), labels=np.arange(10_000))
    whole = file.read_bytes()
    if damage == "missing":
        file.unlink()
    elif damage == "other arrays":
        np.savez(file, images=np.arange(3))
    elif damage == "one array":
        with file.open("wb") as array:
            np.save(array, np.arange(3))
    else:
        file.write_bytes({"empty": b"", "cut": whole[:-100], "changed": whole[:200] + bytes(60) + whole[260:]}[damage])
    with pytest.raises(ModelFolderError, match=r"examples\.npz: not an \.npz file with arrays inputs and labels: "):
        load_examples(file)
