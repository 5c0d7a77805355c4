"""Texts in the served pipeline: the same answer whatever they are padded to, and an answer whatever they are."""

from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from superserve.errors import ConfigError, ModelFolderError
from superserve.evaluate import evaluate
from superserve.model_folder import ModelFolder, write_json
from superserve.supernet.accuracy import check_front
from superserve.supernet.actuator import apply, bind
from superserve.supernet.compile import compile_model
from superserve.supernet.engine import EagerEngine
from superserve.supernet.hub import load_supernet
from superserve.supernet.preprocess import parse_preprocessing
from superserve.supernet.text import TextPreprocessing
from support.texts import INPUT, PREPROCESSING, cells, save_texts, text_config, text_supernet

TEXTS = (b"how much is my bill?", b"pay", b"", b"pay it now " * 5)
ENGINE = EagerEngine(text_supernet())


def network_inputs(texts: np.ndarray[Any, Any]) -> tuple[torch.Tensor, ...]:
    return PREPROCESSING.build()([torch.from_numpy(texts[..., None].view(np.uint8))])


@pytest.mark.parametrize(("texts", "length"), [((b"",), 4), ((b"pay it now",), 4), (TEXTS[:2], 8), (TEXTS, 12)])
def test_a_batch_is_padded_to_the_least_length_that_fits(texts: tuple[bytes, ...], length: int) -> None:
    numbers, mask = network_inputs(cells(*texts))
    assert numbers.shape == mask.shape == (len(texts), length)
    assert torch.equal(mask == 1, numbers != 0)


def test_what_is_served_is_the_direct_forward() -> None:
    supernet = text_supernet()
    for subnet, record in enumerate(supernet.front.subnets):
        apply(bind(supernet.network, record.spec, None))
        for text in TEXTS:
            numbers = torch.tensor([PREPROCESSING.tokenizer.encode(text.decode(), 12)])
            alone = supernet.network(numbers, torch.ones_like(numbers))
            (served,) = ENGINE.run(subnet, [cells(text, *TEXTS)])  # padded as the longest of TEXTS is
            np.testing.assert_allclose(served[0], alone[0].numpy(), atol=1e-5)


@settings(deadline=None)
@given(st.lists(st.binary(max_size=64), min_size=1, max_size=8))
def test_any_bytes_get_finite_answers_that_do_not_depend_on_their_neighbours(texts: list[bytes]) -> None:
    (together,) = ENGINE.run(2, [cells(*texts)])
    assert np.isfinite(together).all()
    (alone,) = ENGINE.run(2, [cells(texts[-1])])
    np.testing.assert_allclose(together[-1], alone[0], atol=1e-5)


@given(st.binary(min_size=68, max_size=68))
def test_cells_that_no_front_end_would_make_are_read_within_their_bounds(cell: bytes) -> None:
    """Of any size that their length claims."""
    batch = np.frombuffer(cell, INPUT.dtype)[:, None].copy()
    numbers, _ = network_inputs(batch)
    assert numbers.shape[1] in PREPROCESSING.lengths


def test_the_longest_rows_need_the_greatest_length() -> None:
    numbers, _ = network_inputs(INPUT.longest(2))
    assert numbers.shape == (2, PREPROCESSING.lengths[-1])


def test_a_folder_of_texts_loads_with_its_test_data(tmp_path: Path) -> None:
    folder = save_texts(tmp_path)
    engine = EagerEngine.load(folder)
    inputs, labels = folder.test_data()
    assert inputs.tolist() == [[b"how much is my bill?"], [b"pay it now"], ["¿qué?".encode()]]
    rows = evaluate(engine, INPUT.packed(inputs), labels)
    assert [row.n for row in rows] == [3, 3, 3]
    reduced = EagerEngine.load(folder, "bfloat16")
    assert check_front(reduced, engine, folder) > 0
    assert folder.example_inputs(2, np.random.default_rng(0))[0].tolist() == INPUT.packed(inputs[:2]).tolist()


def test_texts_are_not_compiled(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'bills' takes texts.*--engine eager"):
        compile_model(save_texts(tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lengths": (8, 4)}, "rise"),
        ({"lengths": (1, 4)}, "at least 2"),
        ({"lengths": ()}, "rise"),
        ({"pieces": "[PAD] [CLS] a"}, r"lack \[UNK\]"),
        ({"pieces": "[PAD] [UNK]  [CLS]"}, "none empty"),
    ],
)
def test_impossible_preprocessing_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_preprocessing(msgspec.to_builtins(PREPROCESSING) | change)


@pytest.mark.parametrize(("size", "smaller"), [("vocabulary", 12), ("positions", 11)])
def test_a_network_that_cannot_read_all_pieces_is_refused(tmp_path: Path, size: str, smaller: int) -> None:
    save_texts(tmp_path)
    config = text_config()
    write_json(
        tmp_path / "config.json",
        msgspec.structs.replace(config, architecture=config.architecture | {size: smaller}),
    )
    with pytest.raises(ModelFolderError, match=rf"config.json: preprocessing gives {smaller + 1} {size}"):
        load_supernet(ModelFolder(tmp_path))


def test_words_come_back_from_what_the_network_reads() -> None:
    numbers, _ = network_inputs(cells(b"How much is my BILLS?"))
    assert PREPROCESSING.tokenizer.decode(numbers[0].tolist()) == ["how", "much", "is", "my", "bills", "?"]
    assert isinstance(parse_preprocessing(msgspec.to_builtins(PREPROCESSING)), TextPreprocessing)
