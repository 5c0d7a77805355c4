"""A training run that takes a second: a tiny network, on images that colour alone tells apart."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from superserve.engine import Engine
from superserve.model_folder import FORMAT, ModelConfig, TensorSpec
from superserve.supernet.preprocess import ImagePreprocessing
from superserve.supernet.zoo.ofa_resnet import OfaResNetConfig, StageConfig
from superserve.training.data import Split
from superserve.training.front import Cost
from superserve.training.trainer import Job, Learning, Plan, Progress, train

TINY = OfaResNetConfig(
    in_channels=3,
    classes=3,
    stem_width=8,
    stages=(StageConfig(width=8, stride=2, depths=(1, 2)), StageConfig(width=16, stride=2, depths=(1,))),
    width_ratios=(0.5, 1.0),
    expand_ratios=(0.5, 1.0),
    divisor=4,
)

PLAN = Plan(epochs=2, rows=8, seed=5, random_subnets=1, ema_decay=0.9)


def by_flops(tensor: TensorSpec) -> Cost:
    """A cost that no clock has a part in: the work of one row."""

    def cost(engine: Engine, subnet: int) -> float:
        with FlopCounterMode(display=False) as counter:
            engine.run(subnet, [np.zeros((1, *tensor.row_shape), tensor.dtype)])
        return float(counter.get_total_flops())

    return cost


def coloured(n: int, seed: int) -> Split:
    """Noisy images (n, 8, 8, 3); the strongest colour is the class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    images = rng.integers(0, 160, (n, 8, 8, 3), dtype=np.uint8)
    images[np.arange(n), :, :, labels] += 60
    return Split(images, labels)


def learning() -> Learning:
    """Enough for four steps of eight images an epoch, and two over."""
    return Learning(coloured(34, seed=1), coloured(40, seed=2))


def served(images: Tensor) -> Tensor:
    """As served."""
    return images.permute(0, 3, 1, 2).float() / 255


def noisy(images: Tensor, generator: torch.Generator) -> Tensor:
    """An augmentation."""
    return served(images) + torch.randn(len(images), 3, 8, 8, generator=generator) / 10


def model_config() -> ModelConfig:
    """``config.json`` of the tiny network."""
    preprocessing = ImagePreprocessing(layout="HWC", scale=1 / 255, mean=(0.0,) * 3, std=(1.0,) * 3)
    return ModelConfig(
        format=FORMAT,
        name="colours",
        family="ofa_resnet",
        architecture=msgspec.to_builtins(TINY),
        task="image-classification",
        dataset="noisy colours",
        labels=("red", "green", "blue"),
        inputs=(TensorSpec("image", "UINT8", (-1, 8, 8, 3)),),
        outputs=(TensorSpec("logits", "FP32", (-1, 3)),),
        preprocessing=msgspec.to_builtins(preprocessing),
    )


def tiny_job(folder: Path | None = None, plan: Plan = PLAN) -> Job:
    """A job of two epochs, four steps each, with a checkpoint every three steps."""
    return Job(
        plan=plan,
        family="ofa_resnet",
        architecture=msgspec.to_builtins(TINY),
        load=learning,
        augment=noisy,
        prepare=served,
        folder=folder,
        checkpoint_steps=3,
    )


def train_until_killed(folder: Path, plan: Plan, step: int) -> None:
    """Train, and be killed by the system after a step."""

    def kill(progress: Progress) -> None:
        if progress.step == step:
            os.kill(os.getpid(), signal.SIGKILL)

    train(replace(tiny_job(folder), plan=plan), report=kill)
