"""Preprocessing: from the request's tensors to the network's input, inside the worker.

Clients send what they have (raw pixels); ``preprocessing`` in ``config.json`` says how it becomes the network's
input, so that a model cannot be served with other preprocessing than it was trained with.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import msgspec
import torch
from torch import Tensor
from torch.nn import functional

from superserve.errors import ConfigError
from superserve.supernet.text import TextPreprocessing


class Preprocessor(Protocol):
    """Turns one batch of request tensors into the network's arguments."""

    def __call__(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Preprocess (rows, *row_shape) tensors, in the order of ``config.json``."""


class ImagePreprocessing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="image"):
    """Scale, normalise per channel and resize images."""

    layout: Literal["HW", "HWC", "CHW"]
    """The axes of one row: ``HW`` is one grey channel."""
    scale: float
    """Brings pixel values to 0..1."""
    mean: tuple[float, ...]
    """Per channel, of scaled pixels."""
    std: tuple[float, ...]
    """Per channel, of scaled pixels."""
    size: tuple[int, int] | None = None
    """Height and width to resize to, bilinearly; None leaves the size."""

    def __post_init__(self) -> None:
        if not self.mean or len(self.mean) != len(self.std) or any(value <= 0 for value in self.std):
            raise ValueError("mean and std must give one value per channel, std above 0")
        if self.layout == "HW" and len(self.mean) != 1:
            raise ValueError("layout HW has one channel: give one mean and one std")

    def build(self, device: str = "cpu") -> Preprocessor:
        """What runs it, on a device."""
        return _Image(self, device)


class NoPreprocessing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="none"):
    """Hand the request's tensors on as they are: token ids and masks, or anything the client prepared itself."""

    def build(self, device: str = "cpu") -> Preprocessor:  # noqa: ARG002 (the same everywhere)
        """What runs it, on a device."""
        return _Identity()


#: Further kinds join this union.
Preprocessing = ImagePreprocessing | TextPreprocessing | NoPreprocessing


def parse_preprocessing(preprocessing: Mapping[str, Any]) -> Preprocessing:
    """Check the ``preprocessing`` of a ``config.json``; its key ``type`` says which kind it is.

    Raises:
        ConfigError: naming the key that is unknown, missing or impossible.
    """
    try:
        parsed: Preprocessing = msgspec.convert(preprocessing, Preprocessing)
    except msgspec.ValidationError as error:
        raise ConfigError(f"preprocessing: {error}") from None
    return parsed


def host_and_device(preprocessing: Preprocessing, device: str) -> tuple[Preprocessor, Preprocessor]:
    """What runs on the host before tensors are copied to a device, and what runs there: only texts need the former."""
    as_it_is = NoPreprocessing().build()
    if isinstance(preprocessing, TextPreprocessing):
        return preprocessing.build(), as_it_is
    return as_it_is, preprocessing.build(device)


class _Identity:
    """Nothing to do."""

    def __call__(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(inputs)


class _Image:
    """Normalise (as one multiply-add, before resizing: there are fewer pixels then), then resize."""

    def __init__(self, config: ImagePreprocessing, device: str) -> None:
        mean, std = torch.tensor(config.mean, device=device), torch.tensor(config.std, device=device)
        self._config = config
        self._factor = (config.scale / std).view(1, -1, 1, 1)
        self._offset = (-mean / std).view(1, -1, 1, 1)

    def __call__(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        (images,) = inputs
        if self._config.layout == "HW":
            images = images.unsqueeze(1)
        elif self._config.layout == "HWC":
            images = images.permute(0, 3, 1, 2)
        x = torch.addcmul(self._offset, images.float(), self._factor)
        if self._config.size is not None:
            x = functional.interpolate(x, self._config.size, mode="bilinear", align_corners=False)
        return (x,)
