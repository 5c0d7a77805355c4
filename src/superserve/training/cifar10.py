"""Train the bundled ``cifar10`` model: an OFA-style residual supernet for 32x32 photographs.

Of the 50,000 training images 5,000, drawn by seed, are kept for every choice: they are watched while training and
choose the front. The test images are looked at once, when nothing is left to choose.
"""

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import torch
from torch import Tensor

from superserve.errors import ConfigError
from superserve.model_folder import FORMAT, ModelConfig, ModelFolder, TensorSpec
from superserve.supernet.preprocess import ImagePreprocessing
from superserve.supernet.zoo.ofa_resnet import OfaResNetConfig, StageConfig
from superserve.training.augment import CropFlip, crop_flip
from superserve.training.card import Making, commands, latencies_ms, machine, write_card
from superserve.training.cifar10_data import LABELS, load_cifar10
from superserve.training.data import Parts
from superserve.training.front import batch_latency_ms
from superserve.training.options import TrainOptions
from superserve.training.progress import Report, StepReport
from superserve.training.publish import Measurer, choose, publish
from superserve.training.start import fastest_precision
from superserve.training.trainer import Job, Learning, Plan, Trained, train

VALIDATION: Final = 5_000
CALIBRATION: Final = 2_000
"""Training images that statistics are computed from."""
FRONT_SIZE: Final = 10
EPOCHS: Final = 60

#: Sized on one server core with AVX-512: 16 images take about 1.5 ms on the smallest subnet (1.5 MMAC per image) and
#: about 12 on the largest (41).
ARCHITECTURE: Final = OfaResNetConfig(
    in_channels=3,
    classes=10,
    stem_width=32,
    stages=(
        StageConfig(width=64, stride=2, depths=(1, 2, 3, 4)),
        StageConfig(width=128, stride=2, depths=(1, 2, 3, 4)),
        StageConfig(width=256, stride=2, depths=(1, 2, 3)),
    ),
    width_ratios=(0.375, 0.5, 0.75, 1.0),
    expand_ratios=(0.25, 0.375, 0.5),
)

#: Means and standard deviations of the training images, as usual for this data set.
PREPROCESSING: Final = ImagePreprocessing(
    layout="HWC", scale=1 / 255, mean=(0.4914, 0.4822, 0.4465), std=(0.247, 0.2435, 0.2616)
)


def train_cifar10(options: TrainOptions, report: Report = lambda _progress: None) -> ModelFolder:
    """Train, choose the front by validation accuracy and latency here, test it once, and write the folder and its card.

    Raises:
        ConfigError: if the data is not there, or a checkpoint belongs to another plan.
        CheckpointError: if data or checkpoint cannot be read.
        WorkerError: if a training process was lost.
    """
    if options.data is None:
        raise ConfigError("--data: cifar10 is trained on files that you have (or set SUPERSERVE_DATA); see --help")
    plan = default_plan(options)
    job = training_job(options.data, options.out / "training", plan)
    trained = train(job, resume=options.resume, report=StepReport(report))
    return publish_cifar10(trained, load_parts(options.data, options.seed), plan, options.out, report)


def default_plan(options: TrainOptions) -> Plan:
    """The recipe's plan, at these options.

    The learning rate is from short trials with one seed (3 epochs of 12,000 images, SGD at 64 images per step: 0.2
    gave 47 % and 55 % validation accuracy on smallest and largest, 0.1 45 and 53, 0.05 40 and 46; AdamW 40-44 and
    52-55), scaled to 128 images. Two processes draw a random subnet each, so a step trains two.
    """
    return Plan(
        epochs=EPOCHS if options.epochs is None else options.epochs,
        seed=options.seed,
        rows=128,
        processes=options.processes or min(2, len(os.sched_getaffinity(0))),
        learning_rate=0.25,
        random_subnets=1,
        precision=fastest_precision(),
    )


_JPEG_NOTE: Final = (
    "If the data was the packed copy (`cifar10_train.npz`): its images went through JPEG at quality 75 with 4:2:0 "
    "chroma and so differ slightly from the original release. Accuracies are not exactly comparable with published "
    "ones."
)
_CONTINUE_NOTE: Final = (
    "To train on: repeat the command on the same folder with `--resume` and a larger `--epochs`. The cosine is "
    "stretched over the new number of epochs, so the learning rate rises again before it falls; the result equals no "
    "uninterrupted run, but can be repeated."
)


@dataclass(frozen=True)
class Augment:
    """Crops, mirror images and cutout of raw images, normalised as served; what is cut out gets the mean colour."""

    preprocessing: ImagePreprocessing
    options: CropFlip

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """(rows, height, width, channels) uint8 to (rows, channels, height, width) float32, channels_last."""
        cropped, blank = crop_flip(images, self.options, generator)
        (x,) = self.preprocessing.build()([cropped])
        return x.masked_fill_(blank.permute(0, 3, 1, 2), 0.0)


@dataclass(frozen=True)
class Served:
    """Images as the served model sees them."""

    preprocessing: ImagePreprocessing

    def __call__(self, images: Tensor) -> Tensor:
        """(rows, height, width, channels) uint8 to (rows, channels, height, width) float32, channels_last."""
        (x,) = self.preprocessing.build()([images])
        return x


def load_parts(data: Path, seed: int) -> Parts:
    """Training, validation and test images.

    Raises:
        ConfigError: if the data is not there.
        CheckpointError: if it cannot be read.
    """
    everything = load_cifar10(data, "train")
    order = np.random.default_rng(seed).permutation(len(everything))
    return Parts(everything.take(order[VALIDATION:]), everything.take(order[:VALIDATION]), load_cifar10(data, "test"))


def load_learning(data: Path, seed: int) -> Learning:
    """What training may see."""
    parts = load_parts(data, seed)
    return Learning(parts.train, parts.validate)


def training_job(data: Path, folder: Path | None, plan: Plan) -> Job:
    """The run that makes the weights."""
    return Job(
        plan=plan,
        family="ofa_resnet",
        architecture=msgspec.to_builtins(ARCHITECTURE),
        load=partial(load_learning, data, plan.seed),
        augment=Augment(PREPROCESSING, CropFlip()),
        prepare=Served(PREPROCESSING),
        folder=folder,
    )


def publish_cifar10(trained: Trained, parts: Parts, plan: Plan, out: Path, report: Report) -> ModelFolder:
    """From weights to the model folder with its card."""
    config = model_config()
    measurer = Measurer(
        trained.network, config, parts.train.head(CALIBRATION), batch_latency_ms(config.inputs[0]), rows=100
    )
    chosen = choose(measurer, list(trained.network.space.uniform()), parts.validate, FRONT_SIZE, report)
    folder = publish(measurer, chosen, parts, out, report)
    write_card(folder, _making(plan, trained, parts), latencies_ms(folder))
    return folder


def _making(plan: Plan, trained: Trained, parts: Parts) -> Making:
    return Making(
        command=commands("cifar10", plan, trained.history),
        plan=plan,
        history=trained.history,
        licence="apache-2.0",
        machine=machine(),
        search="The front is that of the uniform subnets: one depth, one width, one expand ratio throughout.",
        data=(
            f"CIFAR-10 (Krizhevsky 2009). Of its {len(parts.train) + len(parts.validate):,} training images "
            f"{len(parts.validate):,}, drawn by seed {plan.seed}, are the validation split by which everything was "
            f"chosen; the other {len(parts.train):,} trained the weights. The {len(parts.test):,} test images were "
            "used once, for the table below."
        ),
        limits=(
            _JPEG_NOTE,
            "Ten classes of 32x32 photographs; anything else gets one of the ten labels all the same.",
            _CONTINUE_NOTE,
        ),
    )


def model_config() -> ModelConfig:
    """``config.json`` of the model."""
    return ModelConfig(
        format=FORMAT,
        name="cifar10",
        family="ofa_resnet",
        architecture=msgspec.to_builtins(ARCHITECTURE),
        task="image-classification",
        dataset="CIFAR-10, 32x32 photographs in 10 classes",
        labels=LABELS,
        inputs=(TensorSpec("image", "UINT8", (-1, 32, 32, 3)),),
        outputs=(TensorSpec("logits", "FP32", (-1, ARCHITECTURE.classes)),),
        preprocessing=msgspec.to_builtins(PREPROCESSING),
    )
