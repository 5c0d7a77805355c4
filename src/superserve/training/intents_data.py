"""Read CLINC150 and Banking77: from packed files, or from the official ones.

Sources: Larson et al., "An Evaluation Dataset for Intent Classification and Out-of-Scope Prediction", EMNLP 2019;
Casanueva et al., "Efficient Intent Detection with Dual Sentence Encoders", NLP4ConvAI 2020.
"""

import csv
import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Literal, NamedTuple

import msgspec

from superserve.errors import CheckpointError, ConfigError

OUT_OF_SCOPE: Final = "oos"
"""CLINC150's name for a text with none of its intents."""

Which = Literal["train", "dev", "test"]
Task = Literal["clinc150", "banking77"]


class Text(NamedTuple):
    """An example."""

    which: Which
    intent: str
    """As the data set names it."""
    text: str


def load_texts(data: Path, task: Task) -> list[Text]:
    """All examples of a data set, in the order of its files. Banking77 has no ``dev``.

    Looks in ``data``, ``data/text`` and the folder of the task's name for, in this order: the packed
    ``TASK.csv.gz`` (columns ``split,label,text``) with ``TASK.labels.json``; CLINC150's official ``data_full.json``;
    Banking77's official ``train.csv`` and ``test.csv``.

    Raises:
        ConfigError: if none of them is there.
        CheckpointError: if a file is there and cannot be read.
    """
    for folder in (data, data / "text", data / task):
        for name, read in _READERS[task].items():
            if (folder / name).is_file():
                return _checked(folder / name, read)
    raise ConfigError(
        f"--data {data}: none of {', '.join(_READERS[task])} in it or in its folders text and {task} ({_SOURCES[task]})"
    )


def _checked(path: Path, read: Callable[[Path], Iterator[Text]]) -> list[Text]:
    try:
        return list(read(path))
    except (OSError, EOFError, ValueError, KeyError, IndexError, TypeError) as error:
        raise CheckpointError(f"{path}: not a readable copy of the data set ({error}): fetch it again") from None


def _packed(path: Path) -> Iterator[Text]:
    names = json.loads(path.with_name(path.name.replace(".csv.gz", ".labels.json")).read_bytes())
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield Text(_which(row["split"]), str(names[int(row["label"])]), row["text"])


def _clinc(path: Path) -> Iterator[Text]:
    for part, examples in json.loads(path.read_bytes()).items():
        for text, intent in examples:
            yield Text(_which(part.removeprefix("oos_").replace("val", "dev")), str(intent), str(text))


def _banking(path: Path) -> Iterator[Text]:
    for which in ("train", "test"):
        with path.with_name(f"{which}.csv").open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                yield Text(_which(which), row["category"], row["text"])


def _which(name: str) -> Which:
    which: Which = msgspec.convert(name, Which)
    return which


_READERS: Final[dict[Task, dict[str, Callable[[Path], Iterator[Text]]]]] = {
    "clinc150": {"clinc150.csv.gz": _packed, "data_full.json": _clinc},
    "banking77": {"banking77.csv.gz": _packed, "train.csv": _banking},
}
_SOURCES: Final[dict[Task, str]] = {
    "clinc150": "data/data_full.json of https://github.com/clinc/oos-eval",
    "banking77": "banking_data of https://github.com/PolyAI-LDN/task-specific-datasets",
}
