"""What the importers of OFA's mobile supernets share: all names of tensors but those of the head."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any, Final, TypeVar

import msgspec
import torch

from superserve.errors import CheckpointError
from superserve.model_folder import ModelConfig
from superserve.subnet import SubnetSpec
from superserve.supernet.importing.checkpoint import Picker
from superserve.supernet.importing.family import Family, Serving, Task
from superserve.supernet.importing.images import image_config
from superserve.supernet.importing.ofa_keys import STATISTICS, norm, spellings
from superserve.supernet.zoo.ofa_inverted import InvertedResidual
from superserve.supernet.zoo.ofa_mobile import OfaMobile, OfaMobileConfig

#: Where the published files lie.
FILES: Final = "https://raw.githubusercontent.com/han-cai/files/master/ofa/ofa_nets/"

C = TypeVar("C", bound=OfaMobileConfig)
N = TypeVar("N", bound=OfaMobile)


class OfaMobileArch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A subnet as ``set_active_subnet`` of OFA's mobile networks takes it; a scalar stands for all entries."""

    ks: int | list[int]
    e: float | list[float]
    d: int | list[int]


class OfaMobileImporter(Family[C, N]):
    """See `Family`."""

    harmless = STATISTICS

    @abstractmethod
    def head(self) -> Iterator[tuple[str, str]]:
        """Our name and the new OFA one of each tensor between the last stage and the classifier."""

    def names(self, network: N) -> Iterator[tuple[str, Iterable[str]]]:
        """See `Family.names`."""
        for ours, theirs in self._pairs(network):
            yield ours, spellings(theirs)

    def spec(self, network: N, arch: Mapping[str, Any]) -> SubnetSpec:
        """See `Family.spec`."""
        words = msgspec.convert(arch, OfaMobileArch)
        return network.ofa_spec(words.ks, words.e, words.d)

    def config(self, architecture: C, task: Task, serving: Serving) -> ModelConfig:
        """See `Family.config`."""
        return image_config(self.name, architecture, architecture.classes, task, serving)

    def _pairs(self, network: N) -> Iterator[tuple[str, str]]:
        yield "stem.weight", "first_conv.conv.weight"
        yield from norm("stem_norm", "first_conv.bn")
        yield from _static_block("first", "blocks.0.conv")
        number = 1
        for i, stage in enumerate(network.stages):
            assert isinstance(stage, torch.nn.Sequential)
            for j, block in enumerate(stage):
                assert isinstance(block, InvertedResidual)
                yield from _elastic_block(block, f"stages.{i}.{j}", f"blocks.{number}.conv")
                number += 1
        yield from self.head()
        for part in ("weight", "bias"):
            yield f"classifier.{part}", f"classifier.linear.{part}"


def sizes(picker: Picker, told_by: str, published: Mapping[int, float]) -> dict[str, Any]:
    """The number of classes and the width multiplier of a checkpoint; every other size is as published.

    Args:
        picker: the checkpoint.
        told_by: a tensor with one value per channel of a fixed layer.
        published: how many channels that are, to the width multiplier.

    Raises:
        CheckpointError: if a tensor is missing, or no published network has so many channels.
    """
    (channels,) = picker.shape(spellings(told_by), 1)
    (classes,) = picker.shape(spellings("classifier.linear.bias"), 1)
    if channels not in published:
        known = " or ".join(f"{count} (width {width})" for count, width in published.items())
        raise CheckpointError(f"{told_by} has {channels} channels: those of published networks have {known}")
    return {"classes": classes, "width_mult": published[channels]}


def _static_block(ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    for name, other in (("depthwise", "depth_conv"), ("project", "point_linear")):
        yield f"{ours}.{name}.weight", f"{theirs}.{other}.conv.weight"
        yield from norm(f"{ours}.{name}_norm", f"{theirs}.{other}.bn")


def _elastic_block(block: InvertedResidual, ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    for name, other in (("expand", "inverted_bottleneck"), ("depthwise", "depth_conv"), ("project", "point_linear")):
        yield f"{ours}.{name}.weight", f"{theirs}.{other}.conv.conv.weight"
        yield from norm(f"{ours}.{name}_norm", f"{theirs}.{other}.bn.bn")
    for small, large in pairwise(block.depthwise.kernels):
        matrix = f"{large}to{small}_matrix"
        yield f"{ours}.depthwise.{matrix}", f"{theirs}.depth_conv.conv.{matrix}"
    if not isinstance(block.squeeze_excite, torch.nn.Identity):
        for name in ("reduce.weight", "reduce.bias", "expand.weight", "expand.bias"):
            yield f"{ours}.squeeze_excite.{name}", f"{theirs}.depth_conv.se.fc.{name}"
