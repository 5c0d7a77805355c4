"""What the card of the ``intents`` model says beside what every card says."""

from collections.abc import Iterator
from typing import Final

import numpy as np

from superserve.evaluate import AccuracyRow, evaluate
from superserve.model_folder import ModelConfig, ModelFolder
from superserve.supernet.engine import EagerEngine
from superserve.training.front import latency_ms
from superserve.training.intents_corpus import Corpus

_ROWS: Final = 100
"""Per batch when measuring accuracy."""

_SCOPE: Final = (
    "English, lower case; accents are dropped. Anything else than what the training texts are about gets one of the "
    "labels all the same: few out-of-scope texts are told as such, see above."
)


def data_in_words(corpus: Corpus, seed: int) -> str:
    """Which texts did what."""
    train, validate, test = (f"{len(part):,}" for part in corpus.parts)
    return (
        "CLINC150 (Larson et al. 2019, CC-BY 3.0) and Banking77 (Casanueva et al. 2020, CC-BY 4.0), as one task of "
        f"{len(corpus.labels)} classes: each intent of either, and one for CLINC150's out-of-scope texts. {train} "
        "texts trained the weights and the word pieces: the training texts of both, less 1,000 of Banking77's drawn by "
        f"seed {seed}. These and CLINC150's validation texts, {validate} together, are what everything was chosen by. "
        f"The {test} test texts with an intent were used once, for the tables below; `test.npz` holds them."
    )


def limits(config: ModelConfig) -> tuple[str, ...]:
    """What a user should know."""
    longest, (tensor,) = config.preprocessing["lengths"][-1], config.inputs
    return (
        f"Texts are cut off after {longest - 1} word pieces, and longer ones than {tensor.max_bytes} bytes refused.",
        _SCOPE,
        "A batch takes what its longest text does: a server plans with the latency of that length, see above.",
        "No compiled engine: cutting texts into pieces is no part of a network that can be traced.",
    )


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
