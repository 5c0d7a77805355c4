"""What the ``intents`` recipe trains on what: the network, what stands in front of it, and the run that makes it."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from superserve.errors import ConfigError
from superserve.model_folder import FORMAT, ModelConfig, TensorSpec
from superserve.supernet.engine import as_tensor
from superserve.supernet.text import TextPreprocessing
from superserve.supernet.zoo.dynabert import DynaBertConfig
from superserve.training.data import Array, Split
from superserve.training.intents_corpus import INPUT, Corpus, load_corpus
from superserve.training.trainer import Job, Learning, Plan
from superserve.training.word_dropout import PADDING, WordDropout, trimmed

NAME: Final = "intents"
LENGTHS: Final = (8, 16, 24, 32)
"""In word pieces: of the training texts half have 11 and 98 in 100 at most 30."""

HIDDEN: Final = 128
LAYERS: Final = 6
HEADS: Final = 8
"""As many as there are eighths: the smallest width attends with one head."""
WIDTHS: Final = (0.125, 0.25, 0.5, 0.75, 1.0)


def architecture(vocabulary: int, classes: int) -> DynaBertConfig:
    """The network."""
    return DynaBertConfig(
        classes=classes,
        vocabulary=vocabulary,
        hidden=HIDDEN,
        layers=LAYERS,
        heads=HEADS,
        neurons=4 * HIDDEN,
        positions=LENGTHS[-1],
        token_types=1,
        padding_token=PADDING,
        width_ratios=WIDTHS,
        depth_ratios=tuple(depth / LAYERS for depth in range(1, LAYERS + 1)),
    )


def model_config(corpus: Corpus, sizes: DynaBertConfig, pieces: Sequence[str]) -> ModelConfig:
    """``config.json`` of the model."""
    lengths = tuple(length for length in LENGTHS if length <= sizes.positions)
    if not lengths:
        raise ConfigError(f"--backbone: reads {sizes.positions} pieces at most, and texts are padded to {LENGTHS[0]}")
    return ModelConfig(
        format=FORMAT,
        name=NAME,
        family="dynabert",
        architecture=msgspec.to_builtins(sizes),
        task="text-classification",
        dataset="CLINC150 and Banking77: intents of short English texts",
        labels=corpus.labels,
        inputs=(INPUT,),
        outputs=(TensorSpec("logits", "FP32", (-1, len(corpus.labels))),),
        preprocessing=msgspec.to_builtins(TextPreprocessing(pieces=" ".join(pieces), lengths=lengths)),
    )


def training_job(data: Path, folder: Path | None, plan: Plan, config: ModelConfig, *, start: Path | None = None) -> Job:
    """The run that makes the weights of a model."""
    preprocessing = msgspec.convert(config.preprocessing, TextPreprocessing)
    return Job(
        plan=plan,
        family=config.family,
        architecture=config.architecture,
        load=partial(load_learning, data, plan.seed, preprocessing),
        augment=WordDropout(preprocessing.tokenizer.unknown),
        prepare=trimmed,
        folder=folder,
        sizes=pieces_of_each,
        start=start,
    )


def load_learning(data: Path, seed: int, preprocessing: TextPreprocessing) -> Learning:
    """What training may see, as numbers of pieces."""
    parts = load_corpus(data, seed).parts
    return Learning(*(_numbers(part, preprocessing) for part in (parts.train, parts.validate)))


def pieces_of_each(numbers: Array) -> Array:
    """How many pieces each text has."""
    counts: Array = np.count_nonzero(numbers != PADDING, axis=1)
    return counts


def _numbers(split: Split, preprocessing: TextPreprocessing) -> Split:
    numbers, _ = preprocessing.build()([as_tensor(split.inputs, INPUT.datatype)])
    return Split(numbers.numpy(), split.labels)
