"""What the card of the ``intents`` model says beside what every card says."""

from collections.abc import Iterator
from typing import Final

import numpy as np

from superserve.evaluate import AccuracyRow, evaluate
from superserve.model_folder import ModelFolder
from superserve.supernet.engine import EagerEngine
from superserve.training.front import latency_ms
from superserve.training.intents_corpus import Corpus

_ROWS: Final = 100
"""Per batch when measuring accuracy."""


def sections(folder: ModelFolder, corpus: Corpus) -> tuple[str, ...]:
    """Accuracy by task, and latency by length."""
    engine = EagerEngine.load(folder)
    return "\n".join(_by_task(engine, corpus)), "\n".join(_by_length(engine, folder))


def _by_task(engine: EagerEngine, corpus: Corpus) -> Iterator[str]:
    yield "## Accuracy by task"
    yield ""
    yield "Test texts, top-1 in per cent with 95 % Wilson intervals. Out of scope: how many of CLINC150's out-of-scope"
    yield f"test texts ({len(corpus.out_of_scope):,}; not in the test accuracy above) are told to be so."
    yield from ("", "| subnet | CLINC150 | Banking77 | out of scope |", "|---|--:|--:|--:|")
    splits = (corpus.of("clinc150"), corpus.of("banking77"), corpus.out_of_scope)
    measured = [evaluate(engine, split.inputs, split.labels, batch_size=_ROWS) for split in splits]
    for subnet, rows in zip(engine.subnet_ids, zip(*measured, strict=True), strict=True):
        yield f"| {subnet} | " + " | ".join(map(_cell, rows)) + " |"


def _cell(row: AccuracyRow) -> str:
    return f"{row.accuracy:.2f} ({row.ci95[0]:.1f}-{row.ci95[1]:.1f})"


def _by_length(engine: EagerEngine, folder: ModelFolder) -> Iterator[str]:
    (tensor,), rows = folder.config.inputs, folder.config.max_batch_size
    lengths = folder.config.preprocessing["lengths"]
    yield "## Latency by length"
    yield ""
    yield f"A batch is padded to the least of these lengths, in word pieces, that its longest text fits into. {rows}"
    yield "rows, otherwise as above."
    yield from ("", "| subnet | " + " | ".join(map(str, lengths)) + " |", "|---" + "|--:" * len(lengths) + "|")
    costs = [latency_ms(tensor.packed(_texts(rows, length))) for length in lengths]
    for subnet, name in enumerate(engine.subnet_ids):
        yield f"| {name} | " + " | ".join(f"{cost(engine, subnet):.2f}" for cost in costs) + " |"


def _texts(rows: int, pieces: int) -> np.ndarray[tuple[int, int], np.dtype[np.bytes_]]:
    """Texts of so many pieces, the one that they start with among them."""
    return np.full((rows, 1), b" ".join([b"a"] * (pieces - 1)))
