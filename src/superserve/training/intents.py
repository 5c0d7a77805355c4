"""Train the bundled ``intents`` model: a DynaBERT-style supernet that tells what a short text asks for.

CLINC150 and Banking77 together: 150 intents of everyday requests, one for everything else, and 77 of a bank's
customers. Learnt from scratch, word pieces included, from the training texts alone. CLINC150's own validation texts,
and a share of Banking77's training texts drawn by seed, are kept for every choice. The test texts are looked at once,
when nothing is left to choose.
"""

import os
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from superserve.errors import ConfigError
from superserve.model_folder import FORMAT, ModelConfig, ModelFolder, TensorSpec
from superserve.supernet.engine import as_tensor
from superserve.supernet.text import TextPreprocessing
from superserve.supernet.zoo.dynabert import DynaBertConfig
from superserve.training.card import Making, latencies_ms, machine, write_card
from superserve.training.data import Array, Parts, Split
from superserve.training.front import batch_latency_ms
from superserve.training.intents_card import sections
from superserve.training.intents_corpus import INPUT, Corpus, load_corpus
from superserve.training.options import TrainOptions
from superserve.training.pieces import learn_pieces
from superserve.training.progress import Report, StepReport
from superserve.training.publish import Measurer, choose, publish
from superserve.training.start import fastest_precision
from superserve.training.trainer import Job, Learning, Plan, Trained, train
from superserve.training.word_dropout import PADDING, WordDropout, trimmed

NAME: Final = "intents"
VOCABULARY: Final = 4_000
LENGTHS: Final = (8, 16, 24, 32)
"""In word pieces: of the training texts half have 11 and 98 in 100 at most 30."""
EPOCHS: Final = 24
LEARNING_RATE: Final = 1e-3
"""At 128 rows a step 2.5e-3 had learnt nothing after an epoch, and this one two in five of CLINC150's intents."""
FRONT_SIZE: Final = 10

HIDDEN: Final = 128
LAYERS: Final = 6
HEADS: Final = 8
"""As many as there are eighths: the smallest width attends with one head."""
WIDTHS: Final = (0.125, 0.25, 0.5, 0.75, 1.0)


def train_intents(options: TrainOptions, report: Report = lambda _progress: None) -> ModelFolder:
    """Train, choose the front by validation accuracy and latency here, test it once, and write the folder and its card.

    Raises:
        ConfigError: if the data is not there, or a checkpoint belongs to another plan.
        CheckpointError: if data or checkpoint cannot be read.
        WorkerError: if a training process was lost.
    """
    if options.data is None:
        raise ConfigError("--data: intents is trained on files that you have (or set SUPERSERVE_DATA); see --help")
    corpus = load_corpus(options.data, options.seed)
    plan, config = default_plan(options), model_config(corpus)
    job = training_job(options.data, options.out / "training", plan, config)
    trained = train(job, resume=options.resume, report=StepReport(report))
    return publish_intents(trained, corpus, plan, options.out, report)


def default_plan(options: TrainOptions) -> Plan:
    """The recipe's plan, at these options."""
    return Plan(
        epochs=EPOCHS if options.epochs is None else options.epochs,
        seed=options.seed,
        rows=64,
        processes=options.processes or min(2, len(os.sched_getaffinity(0))),
        optimizer="adamw",
        learning_rate=LEARNING_RATE,
        weight_decay=0.05,
        random_subnets=1,
        label_smoothing=0.1,
        precision=fastest_precision(),
    )


def model_config(corpus: Corpus) -> ModelConfig:
    """``config.json`` of the model, with the word pieces of the training texts."""
    texts = INPUT.unpacked(corpus.parts.train.inputs).ravel()
    pieces = learn_pieces((text.decode() for text in texts), VOCABULARY)
    return ModelConfig(
        format=FORMAT,
        name=NAME,
        family="dynabert",
        architecture=msgspec.to_builtins(architecture(len(pieces), len(corpus.labels))),
        task="text-classification",
        dataset="CLINC150 and Banking77: intents of short English texts",
        labels=corpus.labels,
        inputs=(INPUT,),
        outputs=(TensorSpec("logits", "FP32", (-1, len(corpus.labels))),),
        preprocessing=msgspec.to_builtins(TextPreprocessing(pieces=" ".join(pieces), lengths=LENGTHS)),
    )


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


def training_job(data: Path, folder: Path | None, plan: Plan, config: ModelConfig) -> Job:
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


def load_parts(data: Path, seed: int) -> Parts:
    """Training, validation and test texts, as clients send them."""
    return load_corpus(data, seed).parts


def load_test(data: Path) -> Split:
    """The test texts with an intent: they are the same for every seed."""
    return load_corpus(data, 0).parts.test


def publish_intents(trained: Trained, corpus: Corpus, plan: Plan, out: Path, report: Report) -> ModelFolder:
    """From weights to the model folder with its card."""
    measurer = Measurer(
        trained.network, model_config(corpus), corpus.parts.train.head(0), batch_latency_ms(INPUT), rows=100
    )
    chosen = choose(measurer, list(trained.network.space.uniform()), corpus.parts.validate, FRONT_SIZE, report)
    folder = publish(measurer, chosen, corpus.parts, out, report, bundle_test=True)
    making = Making(
        command=f"superserve train {NAME} --data DIR --out DIR --epochs {plan.epochs} --seed {plan.seed}",
        plan=plan,
        history=trained.history,
        licence="apache-2.0",
        machine=machine(),
        search="The front is that of all widths and depths.",
        data=_data(corpus, plan.seed),
        limits=_LIMITS,
        sections=sections(folder, corpus),
    )
    write_card(folder, making, latencies_ms(folder))
    return folder


def _data(corpus: Corpus, seed: int) -> str:
    train, validate, test = (f"{len(part):,}" for part in corpus.parts)
    return (
        "CLINC150 (Larson et al. 2019, CC-BY 3.0) and Banking77 (Casanueva et al. 2020, CC-BY 4.0), as one task of "
        f"{len(corpus.labels)} classes: each intent of either, and one for CLINC150's out-of-scope texts. {train} "
        "texts trained the weights and the word pieces: the training texts of both, less 1,000 of Banking77's drawn by "
        f"seed {seed}. These and CLINC150's validation texts, {validate} together, are what everything was chosen by. "
        f"The {test} test texts with an intent were used once, for the tables below; `test.npz` holds them."
    )


_SCOPE: Final = (
    "English, lower case; accents are dropped. Anything else than what the training texts are about gets one of the "
    "labels all the same: few out-of-scope texts are told as such, see above."
)
_LIMITS: Final = (
    f"Texts are cut off after {LENGTHS[-1] - 1} word pieces, and longer ones than {INPUT.max_bytes} bytes refused.",
    _SCOPE,
    "A server plans with the latency of the longest texts; batches of short ones are done sooner.",
    "No compiled engine: cutting texts into pieces is no part of a network that can be traced.",
)
