"""Texts to measure with: of each length that a model pads them to."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from superserve.model_folder import ModelFolder, TensorSpec
from superserve.text_lengths import TextLengths


class Texts(NamedTuple):
    """What stands for one of the shorter lengths of a model."""

    length: int
    """In word pieces."""
    share: float
    """How many of the model's test texts are padded to it when alone; 0 if the folder carries none."""
    row: list[bytes]
    """The bytes of a row's tensor, of just this length."""


def shorter_texts(folder: ModelFolder, inputs: Sequence[TensorSpec]) -> list[Texts]:
    """Of each length but the longest, in rising order; none unless the model takes texts and has several lengths."""
    lengths = TextLengths.of(folder.config.preprocessing)
    if lengths is None:
        return []
    shares = _shares(folder, lengths)
    return [
        Texts(length, share, [_text(inputs[0], lengths, bucket).tobytes()])
        for bucket, (length, share) in enumerate(zip(lengths.lengths[:-1], shares, strict=False))
    ]


def _shares(folder: ModelFolder, lengths: TextLengths) -> list[float]:
    counts = np.zeros(len(lengths.lengths))
    if folder.carries_test_data:
        inputs, _ = folder.test_data()
        np.add.at(counts, [lengths.bucket_of([text]) for text in inputs.reshape(-1).tolist()], 1)
    shares: list[float] = (counts / max(1.0, counts.sum())).round(4).tolist()
    return shares


def _text(tensor: TensorSpec, lengths: TextLengths, bucket: int) -> np.ndarray[tuple[int, ...], np.dtype[np.void]]:
    """One row: as many short words as its length holds beside what starts and ends a text."""
    words = lengths.lengths[bucket]
    while lengths.bucket_of([b"a " * words]) > bucket:
        words -= 1
    return tensor.packed(np.full((1, *tensor.row_shape), (b"a " * words)[: tensor.max_bytes]))
