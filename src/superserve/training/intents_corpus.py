"""CLINC150 and Banking77 as one task: labels of both, and who sees which text."""

from collections.abc import Container, Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple, get_args

import numpy as np

from superserve.model_folder import TensorSpec
from superserve.training.data import Array, Parts, Split
from superserve.training.intents_data import OUT_OF_SCOPE, Task, Text, Which, load_texts

INPUT: Final = TensorSpec("text", "BYTES", (-1, 1), max_bytes=1024)

VALIDATION: Final = 1_000
"""Of Banking77, which has no validation texts of its own."""

_IN_SCOPE, _OUTSIDE, _EITHER = (True,), (False,), (True, False)


class Corpus(NamedTuple):
    """The examples of both; inputs are cells of `INPUT`.

    `Parts` hold texts with an intent, the training part CLINC150's 100 out-of-scope texts too.
    """

    labels: tuple[str, ...]
    """``TASK:INTENT``, in alphabetical order within a task."""
    parts: Parts
    out_of_scope: Split
    """Test texts with none of CLINC150's intents."""

    def of(self, task: Task) -> Split:
        """The test texts of one of the two."""
        return self.parts.test.take(np.flatnonzero(_labels_of(self.labels, task)[self.parts.test.labels]))


def load_corpus(data: Path, seed: int) -> Corpus:
    """Read both from a data folder; the seed draws Banking77's validation texts from its training texts.

    Raises:
        ConfigError: if one of them is not there.
        CheckpointError: if one cannot be read.
    """
    texts = [_Labelled(task, text) for task in get_args(Task) for text in load_texts(data, task)]
    labels = _labels(texts)

    def part(which: Which, scopes: Container[bool]) -> Split:
        return _split([one for one in texts if one.text.which == which and one.in_scope in scopes], labels)

    train = part("train", _EITHER)
    banking = np.flatnonzero(_labels_of(labels, "banking77")[train.labels])
    rng = np.random.default_rng(seed)
    held_back = rng.permutation(banking)[:VALIDATION]
    kept = np.setdiff1d(np.arange(len(train)), held_back)
    validate = _joined(part("dev", _IN_SCOPE), train.take(held_back))
    # Mixed, so that any part of it is fit to watch both.
    validate = validate.take(rng.permutation(len(validate)))
    return Corpus(labels, Parts(train.take(kept), validate, part("test", _IN_SCOPE)), part("test", _OUTSIDE))


class _Labelled(NamedTuple):
    """An example and where it is from."""

    task: Task
    text: Text

    @property
    def label(self) -> str:
        return f"{self.task}:{self.text.intent}"

    @property
    def in_scope(self) -> bool:
        return self.text.intent != OUT_OF_SCOPE


def _labels(texts: Iterable[_Labelled]) -> tuple[str, ...]:
    """CLINC150's before Banking77's."""
    order = get_args(Task)
    found = {(order.index(one.task), one.label) for one in texts}
    return tuple(label for _, label in sorted(found))


def _labels_of(labels: Sequence[str], task: Task) -> Array:
    """Which labels are a task's."""
    return np.array([label.startswith(f"{task}:") for label in labels])


def _split(texts: Sequence[_Labelled], labels: Sequence[str]) -> Split:
    number = {label: place for place, label in enumerate(labels)}
    inputs = np.array([one.text.text for one in texts], object)[:, None]
    return Split(INPUT.packed(inputs), np.array([number[one.label] for one in texts], np.int64))


def _joined(one: Split, other: Split) -> Split:
    return Split(np.concatenate([one.inputs, other.inputs]), np.concatenate([one.labels, other.labels]))
