"""What `superserve train` can train, by name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from superserve.errors import ConfigError
from superserve.model_folder import ModelFolder
from superserve.training import cifar10, intents
from superserve.training.cifar10 import train_cifar10
from superserve.training.cifar10_data import load_cifar10
from superserve.training.data import Array, Parts, Split
from superserve.training.digits import load_digits, train_digits
from superserve.training.intents import train_intents
from superserve.training.options import TrainOptions
from superserve.training.progress import Report


@dataclass(frozen=True)
class Recipe:
    """How one model is made, and where its test examples are."""

    train: Callable[[TrainOptions, Report], ModelFolder]
    test: Callable[[Path], Split] | None
    """Reads the test examples from a data folder; None if the model folder carries them."""
    parts: Callable[[Path, int], Parts]
    """All data from a data folder, split by a seed as for training."""


def _cifar10(options: TrainOptions, report: Report) -> ModelFolder:
    _refuse_backbone("cifar10", options)
    return train_cifar10(options, report)


def _refuse_backbone(name: str, options: TrainOptions) -> None:
    if options.backbone is not None:
        raise ConfigError(f"--backbone: {name} is a model of images, and starts from scratch: leave it out")


def _digits(options: TrainOptions, report: Report) -> ModelFolder:
    _refuse_backbone("digits", options)
    for name, given in (("--processes", options.processes is not None), ("--resume", options.resume)):
        if given:
            raise ConfigError(
                f"{name}: digits trains in one process, in minutes, and keeps no checkpoints: leave it out"
            )
    return train_digits(options.out, seed=options.seed, epochs=options.epochs, report=report)


RECIPES: Final[Mapping[str, Recipe]] = {
    "digits": Recipe(_digits, None, lambda _data, seed: load_digits(seed)),
    "cifar10": Recipe(_cifar10, lambda data: load_cifar10(data, "test"), cifar10.load_parts),
    "intents": Recipe(train_intents, intents.load_test, intents.load_parts),
}


def recipe(name: str) -> Recipe:
    """A recipe by name.

    Raises:
        ConfigError: if there is none.
    """
    if name not in RECIPES:
        raise ConfigError(f"recipe {name!r} is unknown; known: {', '.join(RECIPES)}")
    return RECIPES[name]


def has_examples(model: str) -> bool:
    """Whether a recipe of this name reads test examples from data folders."""
    found = RECIPES.get(model)
    return found is not None and found.test is not None


def examples_of(model: str, data: Path) -> tuple[Array, Array]:
    """Inputs and labels that a model made by a recipe of this name is tested on, from a data folder.

    Raises:
        ConfigError: if no recipe of that name keeps any there, or they are not there.
        CheckpointError: if they cannot be read.
    """
    found = RECIPES.get(model)
    if found is None or found.test is None:
        raise ConfigError(f"--data {data}: no test examples of model {model!r} in data folders; give an .npz file")
    split = found.test(data)
    return split.inputs, split.labels
