"""Import OFA-ResNet50 checkpoints."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

import msgspec
import torch

from superserve.model_folder import ModelConfig
from superserve.subnet import SubnetSpec
from superserve.supernet.importing.checkpoint import Picker
from superserve.supernet.importing.family import Family, Serving, Task
from superserve.supernet.importing.images import image_config
from superserve.supernet.importing.ofa_keys import STATISTICS, norm, spellings
from superserve.supernet.zoo.ofa_resnet50 import OfaResNet50, OfaResNet50Config


class OfaResNetArch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A subnet as ``OFAResNets.set_active_subnet`` takes it; a scalar stands for all entries."""

    d: int | list[int]
    e: float | list[float]
    w: int | list[int]


class OfaResNet50Importer(Family[OfaResNet50Config, OfaResNet50]):
    """See `Family`."""

    name = "ofa_resnet50"
    harmless = STATISTICS
    urls: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "ofa_resnet50": {
            "ofa_supernet_resnet50": "https://huggingface.co/han-cai/ofa/resolve/main/ofa_supernet_resnet50"
        }
    }

    def architecture(self, picker: Picker) -> OfaResNet50Config:
        """The published sizes; only the number of classes is the checkpoint's."""
        (classes,) = picker.shape(spellings("classifier.linear.linear.bias"), 1)
        return OfaResNet50Config(classes=classes)

    def network(self, architecture: OfaResNet50Config) -> OfaResNet50:
        """See `Family.network`."""
        return OfaResNet50(architecture)

    def names(self, network: OfaResNet50) -> Iterator[tuple[str, Iterable[str]]]:
        """See `Family.names`."""
        for ours, theirs in _pairs(network):
            yield ours, spellings(theirs)

    def spec(self, network: OfaResNet50, arch: Mapping[str, Any]) -> SubnetSpec:
        """See `Family.spec`."""
        words = msgspec.convert(arch, OfaResNetArch)
        return network.ofa_spec(words.d, words.e, words.w)

    def config(self, architecture: OfaResNet50Config, task: Task, serving: Serving) -> ModelConfig:
        """See `Family.config`."""
        return image_config(self.name, architecture, architecture.classes, task, serving)


def _pairs(network: OfaResNet50) -> Iterator[tuple[str, str]]:
    stem = (("conv1", "norm1", "0"), ("residual.0.conv", "residual.0.norm", "1.conv"), ("conv2", "norm2", "2"))
    for conv, bn, theirs in stem:
        yield f"stem.{conv}.weight", f"input_stem.{theirs}.conv.conv.weight"
        yield from norm(f"stem.{bn}", f"input_stem.{theirs}.bn.bn")
    number = 0
    for i, stage in enumerate(network.stages):
        assert isinstance(stage, torch.nn.Sequential)
        for j in range(len(stage)):
            yield from _bottleneck(f"stages.{i}.{j}", f"blocks.{number}", projects=j == 0)
            number += 1
    for part in ("weight", "bias"):
        yield f"classifier.{part}", f"classifier.linear.linear.{part}"


def _bottleneck(ours: str, theirs: str, *, projects: bool) -> Iterator[tuple[str, str]]:
    for place in (1, 2, 3):
        yield f"{ours}.conv{place}.weight", f"{theirs}.conv{place}.conv.conv.weight"
        yield from norm(f"{ours}.norm{place}", f"{theirs}.conv{place}.bn.bn")
    if projects:
        yield f"{ours}.shortcut.conv.weight", f"{theirs}.downsample.conv.conv.weight"
        yield from norm(f"{ours}.shortcut.norm", f"{theirs}.downsample.bn.bn")
