import csv
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from superserve.errors import CheckpointError, ConfigError
from superserve.training.intents_corpus import load_corpus
from superserve.training.intents_data import Text, load_texts
from support.intents import write_packed

CLINC = {
    "oos_val": [["what is love", "oos"]],
    "val": [["pay my bill", "pay_bill"]],
    "train": [["pay the bill, please", "pay_bill"], ["wake me at 6", "alarm"]],
    "oos_train": [["sing", "oos"]],
    "test": [["my alarm", "alarm"]],
    "oos_test": [["who won", "oos"]],
}


def test_official_files(tmp_path: Path) -> None:
    (tmp_path / "clinc150").mkdir()
    (tmp_path / "clinc150/data_full.json").write_text(json.dumps(CLINC))
    found = load_texts(tmp_path, "clinc150")
    assert len(found) == 7
    assert {Text("dev", "oos", "what is love"), Text("train", "pay_bill", "pay the bill, please")} < set(found)

    (tmp_path / "banking77").mkdir()
    (tmp_path / "banking77/train.csv").write_text('text,category\n"Is it here,\nmy card?",card_arrival\n')
    (tmp_path / "banking77/test.csv").write_text("text,category\nwhere is it,card_arrival\n")
    assert load_texts(tmp_path, "banking77") == [
        Text("train", "card_arrival", "Is it here,\nmy card?"),
        Text("test", "card_arrival", "where is it"),
    ]


def test_packed_files_come_first_and_may_lie_in_a_folder_of_texts(tmp_path: Path) -> None:
    write_packed(tmp_path / "text", per_intent=2)
    (tmp_path / "clinc150").mkdir()
    (tmp_path / "clinc150/data_full.json").write_text(json.dumps(CLINC))
    assert all(text.intent in {"alarm", "pay_bill", "oos"} for text in load_texts(tmp_path, "clinc150"))
    assert len(load_texts(tmp_path, "clinc150")) > 7
    assert load_texts(tmp_path / "text", "clinc150") == load_texts(tmp_path, "clinc150")


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"banking77.csv.gz, train.csv.*PolyAI"):
        load_texts(tmp_path, "banking77")


@pytest.mark.parametrize("row", [("trian", 0, "a"), ("train", 9, "a"), ("train", "x", "a")])
def test_unreadable_rows_are_refused(tmp_path: Path, row: tuple[Any, ...]) -> None:
    write_packed(tmp_path, per_intent=1)
    with gzip.open(tmp_path / "banking77.csv.gz", "at", encoding="utf-8") as file:
        csv.writer(file).writerow(row)
    with pytest.raises(CheckpointError, match="not a readable copy"):
        load_texts(tmp_path, "banking77")


def test_corpus_keeps_its_parts_apart(tmp_path: Path) -> None:
    write_packed(tmp_path, per_intent=12)
    corpus, again, other = load_corpus(tmp_path, 0), load_corpus(tmp_path, 0), load_corpus(tmp_path, 1)
    assert corpus.labels == (
        "clinc150:alarm",
        "clinc150:oos",
        "clinc150:pay_bill",
        "banking77:card_arrival",
        "banking77:exchange_rate",
    )
    train, validate, test = corpus.parts
    everything = np.concatenate([part.inputs.ravel() for part in (*corpus.parts, corpus.out_of_scope)])
    assert len({cell.tobytes() for cell in everything}) == len(everything)
    assert np.array_equal(validate.inputs, again.parts.validate.inputs)
    assert not np.array_equal(validate.inputs, other.parts.validate.inputs)
    assert np.array_equal(test.inputs, other.parts.test.inputs)
    oos = corpus.labels.index("clinc150:oos")
    assert oos in train.labels
    assert oos not in np.concatenate([validate.labels, test.labels])
    assert set(corpus.out_of_scope.labels) == {oos}


def test_corpus_knows_whose_test_texts_are_whose(tmp_path: Path) -> None:
    write_packed(tmp_path, per_intent=3)
    corpus = load_corpus(tmp_path, 0)
    clinc, banking = corpus.of("clinc150"), corpus.of("banking77")
    assert len(clinc) + len(banking) == len(corpus.parts.test)
    assert {corpus.labels[label].partition(":")[0] for label in banking.labels} == {"banking77"}
