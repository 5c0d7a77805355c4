"""Import OFA-MobileNetV3 checkpoints of any published width."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any, ClassVar, Final

import msgspec
import torch

from superserve.errors import CheckpointError
from superserve.model_folder import ModelConfig
from superserve.subnet import SubnetSpec
from superserve.supernet.importing.checkpoint import Picker
from superserve.supernet.importing.family import Family, Serving, Task
from superserve.supernet.importing.images import image_config
from superserve.supernet.importing.ofa_keys import STATISTICS, norm, spellings
from superserve.supernet.zoo.ofa_mobilenet import InvertedResidual, OfaMobileNetV3, OfaMobileNetV3Config

_FILES: Final = "https://raw.githubusercontent.com/han-cai/files/master/ofa/ofa_nets/"

#: Output channels of the last expanding convolution at each published width multiplier.
_WIDTHS: Final[Mapping[int, float]] = {960: 1.0, 1152: 1.2}


class OfaMobileNetArch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A subnet as ``OFAMobileNetV3.set_active_subnet`` takes it; a scalar stands for all entries."""

    ks: int | list[int]
    e: float | list[float]
    d: int | list[int]


class OfaMobileNetV3Importer(Family[OfaMobileNetV3Config, OfaMobileNetV3]):
    """See `Family`."""

    name = "ofa_mobilenet_v3"
    harmless = STATISTICS
    urls: ClassVar[Mapping[str, Mapping[str, str]]] = {
        name.removeprefix("ofa_mbv3_d234_e346_k357_"): {name: _FILES + name}
        for name in ("ofa_mbv3_d234_e346_k357_w1.0", "ofa_mbv3_d234_e346_k357_w1.2")
    }

    def architecture(self, picker: Picker) -> OfaMobileNetV3Config:
        """The published sizes; width multiplier and number of classes are the checkpoint's."""
        (classes,) = picker.shape(spellings("classifier.linear.bias"), 1)
        channels = picker.shape(spellings("final_expand_layer.conv.weight"), 4)[0]
        if channels not in _WIDTHS:
            raise CheckpointError(
                f"final_expand_layer has {channels} channels: no OFA-MobileNetV3 of width "
                f"{' or '.join(str(width) for width in _WIDTHS.values())}"
            )
        return OfaMobileNetV3Config(classes=classes, width_mult=_WIDTHS[channels])

    def network(self, architecture: OfaMobileNetV3Config) -> OfaMobileNetV3:
        """See `Family.network`."""
        return OfaMobileNetV3(architecture)

    def names(self, network: OfaMobileNetV3) -> Iterator[tuple[str, Iterable[str]]]:
        """See `Family.names`."""
        for ours, theirs in _pairs(network):
            yield ours, spellings(theirs)

    def spec(self, network: OfaMobileNetV3, arch: Mapping[str, Any]) -> SubnetSpec:
        """See `Family.spec`."""
        words = msgspec.convert(arch, OfaMobileNetArch)
        return network.ofa_spec(words.ks, words.e, words.d)

    def config(self, architecture: OfaMobileNetV3Config, task: Task, serving: Serving) -> ModelConfig:
        """See `Family.config`."""
        return image_config(self.name, architecture, architecture.classes, task, serving)


def _pairs(network: OfaMobileNetV3) -> Iterator[tuple[str, str]]:
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
    yield "final.weight", "final_expand_layer.conv.weight"
    yield from norm("final_norm", "final_expand_layer.bn")
    yield "mix.weight", "feature_mix_layer.conv.weight"
    for part in ("weight", "bias"):
        yield f"classifier.{part}", f"classifier.linear.{part}"


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
