"""Train the bundled ``intents`` model: a DynaBERT-style supernet that tells what a short text asks for.

CLINC150 and Banking77 together: 150 intents of everyday requests, one for everything else, and 77 of a bank's
customers. Learnt from scratch, word pieces included, from the training texts alone. CLINC150's own validation texts,
and a share of Banking77's training texts drawn by seed, are kept for every choice. The test texts are looked at once,
when nothing is left to choose.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import numpy as np
import torch
from torch import Tensor

from superserve.errors import ConfigError
from superserve.model_folder import ModelConfig, ModelFolder
from superserve.supernet.tensor_files import write_tensors
from superserve.training.backbone import read_backbone, rewired
from superserve.training.card import Making, commands, latencies_ms, machine, write_card
from superserve.training.data import Parts, Split
from superserve.training.front import batch_latency_ms
from superserve.training.intents_card import data_in_words, limits, sections
from superserve.training.intents_corpus import INPUT, Corpus, load_corpus
from superserve.training.intents_model import NAME, architecture, model_config, training_job
from superserve.training.options import TrainOptions
from superserve.training.pieces import learn_pieces
from superserve.training.progress import Report, StepReport
from superserve.training.publish import Measurer, choose, publish
from superserve.training.start import fastest_precision
from superserve.training.trainer import Job, Plan, Trained, train
from superserve.training.word_dropout import trimmed

VOCABULARY: Final = 4_000
EPOCHS: Final = 20
LEARNING_RATE: Final = 1e-3
"""At 128 rows a step 2.5e-3 had learnt nothing after an epoch, and this one two in five of CLINC150's intents."""
BACKBONE_EPOCHS: Final = 3
BACKBONE_LEARNING_RATE: Final = 5e-5
FRONT_SIZE: Final = 10
_IMPORTANCE_TEXTS: Final = 2_000
"""Training texts that say which heads and neurons matter."""


def train_intents(options: TrainOptions, report: Report = lambda _progress: None) -> ModelFolder:
    """Train, choose the front by validation accuracy and latency here, test it once, and write the folder and its card.

    Raises:
        ConfigError: if the data is not there, a checkpoint belongs to another plan, or a backbone cannot be used.
        CheckpointError: if data, checkpoint or backbone cannot be read.
        WorkerError: if a training process was lost.
    """
    if options.data is None:
        raise ConfigError("--data: intents is trained on files that you have (or set SUPERSERVE_DATA); see --help")
    corpus = load_corpus(options.data, options.seed)
    trainer = _from_scratch if options.backbone is None else _from_backbone
    making = trainer(options, options.data, corpus, StepReport(report))
    return publish_intents(making, corpus, options.out, report)


class Made(NamedTuple):
    """Trained weights, and what made them."""

    trained: Trained
    config: ModelConfig
    plan: Plan
    options: str
    """Of the command that made them, but for those that every command has."""


def _from_scratch(options: TrainOptions, data: Path, corpus: Corpus, report: StepReport) -> Made:
    config, plan = scratch_config(corpus), default_plan(options)
    job = training_job(data, options.out / "training", plan, config)
    return Made(train(job, resume=options.resume, report=report), config, plan, "")


def scratch_config(corpus: Corpus) -> ModelConfig:
    """``config.json`` of the model that ships, with the word pieces of the training texts."""
    texts = INPUT.unpacked(corpus.parts.train.inputs).ravel()
    pieces = learn_pieces((text.decode() for text in texts), VOCABULARY)
    return model_config(corpus, architecture(len(pieces), len(corpus.labels)), pieces)


def _from_backbone(options: TrainOptions, data: Path, corpus: Corpus, report: StepReport) -> Made:
    """Train the whole network alone, put its most important heads and neurons first, then train all subnets."""
    assert options.backbone is not None
    folder = options.out / "training"
    backbone = read_backbone(options.backbone, len(corpus.labels), options.seed)
    config, plan = model_config(corpus, backbone.architecture, backbone.pieces), backbone_plan(options)
    whole = training_job(data, folder / "whole", plan, alone(config), start=_kept(folder / "start", backbone.weights))
    trained = train(whole, resume=options.resume, report=report)
    weights = rewired(backbone.architecture, trained.network.state_dict(), _batches(whole))
    job = training_job(data, folder, plan, config, start=_kept(folder / "rewired", weights))
    return Made(train(job, resume=options.resume, report=report), config, plan, " --backbone DIR")


def alone(config: ModelConfig) -> ModelConfig:
    """The same, with no subnet but the largest."""
    whole = {"width_ratios": (1.0,), "depth_ratios": (1.0,)}
    return msgspec.structs.replace(config, architecture=config.architecture | whole)


def _kept(path: Path, weights: Mapping[str, Tensor]) -> Path:
    """Weights in a file for the processes of a run."""
    path = path.with_suffix(".safetensors")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(path, dict(weights))
    return path


def _batches(job: Job) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
    """Some training texts as served, drawn by the seed: files hold one intent after the other."""
    texts = job.load().train
    texts = texts.take(np.random.default_rng(job.plan.seed).permutation(len(texts))[:_IMPORTANCE_TEXTS])
    numbers, labels = torch.from_numpy(texts.inputs), torch.from_numpy(texts.labels)
    for part, of in zip(torch.split(numbers, job.plan.rows), torch.split(labels, job.plan.rows), strict=True):
        yield trimmed(part), of


def default_plan(options: TrainOptions) -> Plan:
    """The recipe's plan, at these options."""
    return Plan(
        epochs=EPOCHS if options.epochs is None else options.epochs,
        seed=options.seed,
        rows=128,
        processes=options.processes or min(2, len(os.sched_getaffinity(0))),
        optimizer="adamw",
        learning_rate=LEARNING_RATE,
        weight_decay=0.05,
        warm_up=0.03,
        random_subnets=1,
        label_smoothing=0.1,
        precision=fastest_precision(),
    )


def backbone_plan(options: TrainOptions) -> Plan:
    """The plan of both runs that start from a backbone: that of `default_plan` at BERT's own learning rate.

    Source: Devlin et al. 2019, appendix A.3 (5e-5, 2 to 4 epochs; both runs together are twice that).
    """
    epochs = BACKBONE_EPOCHS if options.epochs is None else options.epochs
    return msgspec.structs.replace(default_plan(options), epochs=epochs, learning_rate=BACKBONE_LEARNING_RATE)


def load_parts(data: Path, seed: int) -> Parts:
    """Training, validation and test texts, as clients send them."""
    return load_corpus(data, seed).parts


def load_test(data: Path) -> Split:
    """The test texts with an intent: they are the same for every seed."""
    return load_corpus(data, 0).parts.test


def publish_intents(made: Made, corpus: Corpus, out: Path, report: Report) -> ModelFolder:
    """From weights to the model folder with its card."""
    network, plan = made.trained.network, made.plan
    measurer = Measurer(network, made.config, corpus.parts.train.head(0), batch_latency_ms(INPUT), rows=100)
    chosen = choose(measurer, list(network.space.uniform()), corpus.parts.validate, FRONT_SIZE, report)
    folder = publish(measurer, chosen, corpus.parts, out, report, bundle_test=True)
    making = Making(
        command=commands(NAME, plan, made.trained.history, made.options),
        plan=plan,
        history=made.trained.history,
        licence="apache-2.0" if not made.options else "other",
        machine=machine(),
        search="The front is that of all widths and depths.",
        data=data_in_words(corpus, plan.seed),
        limits=limits(made.config),
        sections=sections(folder, corpus),
    )
    write_card(folder, making, latencies_ms(folder))
    return folder
