"""Train the bundled ``digits`` model: a supernet for the 8x8 digits of scikit-learn.

1,797 images are few, so they are split once by seed into 500 for training and calibration, 300 for choosing the
front, and 997 that nothing is chosen by and that reported accuracies come from. The network is large for the task on
purpose: what the model shows is a serving trade-off, latency against accuracy, on a plain CPU.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import cos, pi
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import torch
from torch import Tensor

from superserve.errors import ConfigError
from superserve.evaluate import AccuracyRow, evaluate
from superserve.model_folder import FORMAT, Front, ModelConfig, ModelFolder, SubnetRecord, TensorSpec
from superserve.subnet import SubnetSpec
from superserve.supernet.calibrate import calibrate
from superserve.supernet.engine import EagerEngine, channels_last
from superserve.supernet.hub import save_supernet
from superserve.supernet.macs import count_macs
from superserve.supernet.network import ElasticNetwork, Supernet
from superserve.supernet.operators import Statistics
from superserve.supernet.preprocess import ImagePreprocessing, parse_preprocessing
from superserve.supernet.zoo import build_network
from superserve.supernet.zoo.ofa_resnet import OfaResNetConfig, StageConfig
from superserve.training.augment import Affine, augment
from superserve.training.front import Candidate, Cost, batch_latency_ms, pareto, spread, uniform_subnets
from superserve.training.sandwich import accumulate_gradients

Array = np.ndarray[Any, Any]

EPOCHS: Final = 30
ROWS: Final = 50
CALIBRATION_ROWS: Final = 250
LEARNING_RATE: Final = 3e-3
WEIGHT_DECAY: Final = 0.05
FRONT_SIZE: Final = 6
SIZE: Final = (32, 32)
PIXEL_MAX: Final = 16

#: Sized by timing 16 images on one server core with AVX-512: 5 ms on the smallest subnet, 60 on the largest.
ARCHITECTURE: Final = OfaResNetConfig(
    in_channels=1,
    classes=10,
    stem_width=32,
    stages=(
        StageConfig(width=96, stride=1, depths=(2, 3)),
        StageConfig(width=160, stride=2, depths=(2, 3)),
        StageConfig(width=256, stride=2, depths=(2, 3)),
    ),
    width_ratios=(0.25, 0.5, 0.8, 0.9, 1.0),
    expand_ratios=(0.125, 0.25, 0.375),
)


class Progress(NamedTuple):
    """How far a training run is."""

    phase: str
    """``train`` (epochs), ``measure`` (candidates) or ``test`` (batches)."""
    done: int
    total: int
    loss: float | None = None
    """While training: the largest subnet's mean loss over the epoch."""


Report = Callable[[Progress], None]


@dataclass(frozen=True)
class Split:
    """Images (n, 8, 8) uint8 of 0..16, and labels (n,) int64."""

    images: Array
    labels: Array


class Digits(NamedTuple):
    """The three disjoint parts of the data."""

    train: Split
    validate: Split
    test: Split


def load_digits(seed: int) -> Digits:
    """Split scikit-learn's copy of the UCI "Optical Recognition of Handwritten Digits" test set by seed.

    Raises:
        ConfigError: if scikit-learn is not installed.
    """
    try:
        from sklearn import datasets  # noqa: PLC0415 (an extra: serving needs none of it)
    except ImportError:
        raise ConfigError("training on digits needs scikit-learn: pip install 'superserve[train]'") from None
    bunch = datasets.load_digits()
    images, labels = bunch.images.astype(np.uint8), bunch.target.astype(np.int64)
    order = np.random.default_rng(seed).permutation(len(labels))
    return Digits(*(Split(images[part], labels[part]) for part in np.split(order, [500, 800])))


def train_digits(
    out: Path,
    *,
    seed: int = 0,
    epochs: int | None = None,
    report: Report = lambda _progress: None,
    architecture: OfaResNetConfig = ARCHITECTURE,
    cost: Cost | None = None,
) -> ModelFolder:
    """Train, calibrate, choose the front by validation accuracy, test it once, and write the model folder.

    Weights are a function of the seed (and of the number of torch threads, which orders float sums). The front also
    depends on latencies measured on this machine, unless another cost is given.

    Args:
        out: the folder to write; made if need be.
        seed: of the split, the weights, the augmentation and the subnets drawn.
        epochs: passes over the training images; None means `EPOCHS`.
        report: called after each epoch, candidate and test batch.
        architecture: another size of network, for tests.
        cost: what the front trades accuracy for; None means the latency of batches of 16 on one thread.

    Raises:
        ConfigError: if scikit-learn is not installed, or epochs are not positive.
    """
    if epochs is not None and epochs < 1:
        raise ConfigError(f"epochs = {epochs}: train for at least 1")
    data = load_digits(seed)
    preprocessing = _preprocessing(data.train)
    network = train_network(data.train, preprocessing, architecture, seed=seed, epochs=epochs or EPOCHS, report=report)
    config = _config(architecture, preprocessing)
    chosen = _choose(network, config, data, cost or batch_latency_ms(config.inputs[0]), report)
    supernet = _tested(network, config, data, chosen, report)
    return save_supernet(supernet, out, test=(data.test.images, data.test.labels))


def train_network(
    data: Split,
    preprocessing: ImagePreprocessing,
    architecture: OfaResNetConfig,
    *,
    seed: int,
    epochs: int,
    report: Report = lambda _progress: None,
) -> ElasticNetwork:
    """Train the weights of every subnet at once.

    Sandwich rule, AdamW, one cycle of the learning rate with cosine annealing, weight decay on matrices only.
    """
    # Layers initialise themselves from torch's global generator: seed it here and give it back as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_network("ofa_resnet", msgspec.to_builtins(architecture))
    generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    matrices = [p for p in network.parameters() if p.dim() > 1]
    vectors = [p for p in network.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}],
        lr=LEARNING_RATE,
    )
    steps = epochs * -(-len(data.labels) // ROWS)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _one_cycle(steps))
    for epoch in range(1, epochs + 1):
        losses = []
        for x, labels in _batches(data, preprocessing, generator):
            optimizer.zero_grad()
            losses.append(accumulate_gradients(network, x, labels, rng=rng))
            optimizer.step()
            schedule.step()
        report(Progress("train", epoch, epochs, sum(losses) / len(losses)))
    return network.requires_grad_(requires_grad=False).eval()


def _one_cycle(steps: int) -> Callable[[int], float]:
    """A tenth of the steps of linear warm-up, then cosine annealing to 0; factor of the learning rate by step."""
    warm_up = max(1, steps // 10)

    def factor(step: int) -> float:
        if step < warm_up:
            return (step + 1) / warm_up
        return (1 + cos(pi * (step - warm_up) / max(1, steps - warm_up))) / 2

    return factor


def _batches(
    data: Split, preprocessing: ImagePreprocessing, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch of augmented batches, channels_last, in random order."""
    (mean,), (std,) = preprocessing.mean, preprocessing.std
    pixels = torch.from_numpy(data.images).unsqueeze(1).float() * preprocessing.scale
    labels = torch.from_numpy(data.labels)
    for rows in torch.split(torch.randperm(len(labels), generator=generator), ROWS):
        x = (augment(pixels[rows], SIZE, Affine(), generator) - mean) / std
        yield channels_last(x), labels[rows]


def _preprocessing(train: Split) -> ImagePreprocessing:
    pixels = train.images / PIXEL_MAX
    return ImagePreprocessing(
        layout="HW",
        scale=1 / PIXEL_MAX,
        mean=(round(float(pixels.mean()), 4),),
        std=(round(float(pixels.std()), 4),),
        size=SIZE,
    )


def _config(architecture: OfaResNetConfig, preprocessing: ImagePreprocessing) -> ModelConfig:
    return ModelConfig(
        format=FORMAT,
        name="digits",
        family="ofa_resnet",
        architecture=msgspec.to_builtins(architecture),
        task="image-classification",
        dataset="UCI optical recognition of handwritten digits, 8x8 (scikit-learn's load_digits)",
        labels=tuple(str(digit) for digit in range(architecture.classes)),
        inputs=(TensorSpec("image", "UINT8", (-1, 8, 8)),),
        outputs=(TensorSpec("logits", "FP32", (-1, architecture.classes)),),
        preprocessing=msgspec.to_builtins(preprocessing),
    )


def _choose(network: ElasticNetwork, config: ModelConfig, data: Digits, cost: Cost, report: Report) -> list[Candidate]:
    """The front, by validation accuracy and cost."""
    architecture = msgspec.convert(config.architecture, OfaResNetConfig)
    ratios = (architecture.width_ratios, architecture.expand_ratios)
    specs = list(uniform_subnets(network.space, ratios))
    candidates = []
    for done, spec in enumerate(specs, start=1):
        engine = EagerEngine(_supernet(network, config, {"candidate": spec}, data.train))
        (row,) = evaluate(engine, data.validate.images, data.validate.labels)
        candidates.append(Candidate(spec, row.accuracy, cost(engine, 0)))
        report(Progress("measure", done, len(specs)))
    return spread(pareto(candidates), FRONT_SIZE)


def _tested(
    network: ElasticNetwork, config: ModelConfig, data: Digits, chosen: Sequence[Candidate], report: Report
) -> Supernet:
    """The supernet of the chosen front, with its accuracy on the test images."""
    ids = {f"s{number}": candidate.spec for number, candidate in enumerate(chosen)}
    supernet = _supernet(network, config, ids, data.train)
    rows = evaluate(
        EagerEngine(supernet),
        data.test.images,
        data.test.labels,
        report=lambda done, total: report(Progress("test", done, total)),
    )
    one_row = torch.zeros(1, config.architecture["in_channels"], *SIZE)
    records = [
        _record(row, candidate, len(data.validate.labels), count_macs(network, candidate.spec, (one_row,)))
        for row, candidate in zip(rows, chosen, strict=True)
    ]
    front = Front(
        format=FORMAT,
        measured_on=f"{len(data.validate.labels)} validation images, disjoint from training and test",
        tested_on=f"{len(data.test.labels)} test images, used for nothing else",
        subnets=tuple(records),
    )
    return Supernet(config, front, network, supernet.statistics)


def _record(test: AccuracyRow, candidate: Candidate, validated: int, macs: int) -> SubnetRecord:
    return SubnetRecord(
        id=test.subnet,
        spec=candidate.spec,
        accuracy=round(candidate.accuracy, 2),
        accuracy_n=validated,
        test_accuracy=round(test.accuracy, 2),
        test_n=test.n,
        macs=macs,
    )


def _supernet(network: ElasticNetwork, config: ModelConfig, specs: Mapping[str, SubnetSpec], train: Split) -> Supernet:
    """A supernet of these subnets, calibrated; their accuracies are not known yet."""
    records = tuple(SubnetRecord(id=name, spec=spec, accuracy=0.0, accuracy_n=0) for name, spec in specs.items())
    statistics = {name: _calibrated(network, config, spec, train) for name, spec in specs.items()}
    return Supernet(config, Front(format=FORMAT, measured_on="", subnets=records), network, statistics)


def _calibrated(network: ElasticNetwork, config: ModelConfig, spec: SubnetSpec, train: Split) -> Statistics:
    """Statistics from the training images as served: not augmented."""
    prepare = parse_preprocessing(config.preprocessing).build()
    batches = (prepare([part])[0] for part in torch.split(torch.from_numpy(train.images), CALIBRATION_ROWS))
    return calibrate(network, spec, map(channels_last, batches))
