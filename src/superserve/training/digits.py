"""Train the bundled ``digits`` model: a supernet for the 8x8 digits of scikit-learn.

1,797 images are few, so they are split once by seed into 500 for training and calibration, 300 for choosing the
front, and 997 that nothing is chosen by and that reported accuracies come from. The network is large for the task on
purpose: what the model shows is a serving trade-off, latency against accuracy, on a plain CPU.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import torch
from torch import Tensor

from superserve.errors import ConfigError
from superserve.model_folder import FORMAT, ModelConfig, ModelFolder, TensorSpec
from superserve.supernet.engine import channels_last
from superserve.supernet.network import ElasticNetwork
from superserve.supernet.preprocess import ImagePreprocessing
from superserve.supernet.zoo.ofa_resnet import OfaResNetConfig, StageConfig
from superserve.training.augment import Affine, augment
from superserve.training.data import Parts, Split
from superserve.training.front import Cost, batch_latency_ms
from superserve.training.progress import Progress, Report
from superserve.training.publish import Measurer, choose, publish
from superserve.training.sandwich import accumulate_gradients
from superserve.training.start import decaying, initial_network, one_cycle

EPOCHS: Final = 30
ROWS: Final = 50
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


def load_digits(seed: int) -> Parts:
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
    return Parts(*(Split(images[part], labels[part]) for part in np.split(order, [500, 800])))


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
    measurer = Measurer(network, config, data.train, cost or batch_latency_ms(config.inputs[0]))
    chosen = choose(measurer, list(network.space.uniform()), data.validate, FRONT_SIZE, report)
    return publish(measurer, chosen, data, out, report, bundle_test=True)


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
    network = initial_network("ofa_resnet", msgspec.to_builtins(architecture), seed)
    generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(decaying(network, WEIGHT_DECAY), lr=LEARNING_RATE)
    steps = epochs * -(-len(data) // ROWS)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: one_cycle(step, steps))
    for epoch in range(1, epochs + 1):
        losses = []
        for x, labels in _batches(data, preprocessing, generator):
            optimizer.zero_grad()
            losses.append(accumulate_gradients(network, x, labels, rng=rng))
            optimizer.step()
            schedule.step()
        report(Progress("train", epoch, epochs, sum(losses) / len(losses)))
    return network.requires_grad_(requires_grad=False).eval()


def _batches(
    data: Split, preprocessing: ImagePreprocessing, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch of augmented batches, channels_last, in random order."""
    (mean,), (std,) = preprocessing.mean, preprocessing.std
    pixels = torch.from_numpy(data.inputs).unsqueeze(1).float() * preprocessing.scale
    labels = torch.from_numpy(data.labels)
    for rows in torch.split(torch.randperm(len(labels), generator=generator), ROWS):
        x = (augment(pixels[rows], SIZE, Affine(), generator) - mean) / std
        yield channels_last(x), labels[rows]


def _preprocessing(train: Split) -> ImagePreprocessing:
    pixels = train.inputs / PIXEL_MAX
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
