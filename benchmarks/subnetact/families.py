"""The supernets that are measured, as model folders: the bundled one, and others with random weights.

Latency and memory do not depend on the values of weights. Statistics are calibrated on random images, so that
activations stay in range.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from superserve.model_folder import FORMAT, Front, ModelConfig, ModelFolder, SubnetRecord
from superserve.subnet import SubnetSpec
from superserve.supernet.calibrate import calibrate
from superserve.supernet.hub import empty_network, save_supernet
from superserve.supernet.importing.choice import Chosen, Sizer, choose
from superserve.supernet.importing.family import Serving, Task
from superserve.supernet.importing.importer import FAMILIES
from superserve.supernet.network import ElasticNetwork, Supernet
from superserve.supernet.preprocess import parse_preprocessing
from superserve.supernet.zoo import build_network

#: The operating points that each family is served with.
POINTS: Final = 6
TOKENS: Final = 128
_SEED: Final = 0


@dataclass(frozen=True)
class Case:
    """A family that is measured."""

    name: str
    title: str
    scale: str
    """``32x32`` or ``ImageNet``: which of the issue's limits holds for it."""
    family: str | None
    """Registered name; None means that the model is bundled."""
    architecture: dict[str, Any]
    offsets: tuple[float, float] = (-0.2, 0.2)
    """Range of its normalisations' offsets."""


CASES: Final = (
    Case("digits", "digits (bundled, 32x32 scale)", "32x32", None, {}),
    Case("ofa_resnet50", "OFA-ResNet50 at 224", "ImageNet", "ofa_resnet50", {}),
    # A random network whose channels have zero mean blows roundings up from block to block, as no trained one does, and
    # OFA's mobile ones have few shortcuts: in bfloat16 they would be too far off, and be refused.
    Case("ofa_mobilenet_v3", "OFA-MobileNetV3 w1.0 at 224", "ImageNet", "ofa_mobilenet_v3", {}, (0.4, 0.7)),
    Case("ofa_proxyless", "OFA-ProxylessNAS w1.3 at 224", "ImageNet", "ofa_proxyless", {}, (0.4, 0.7)),
    Case("dynabert", f"DynaBERT (BERT base, {TOKENS} tokens)", "ImageNet", "dynabert", {"classes": 3}),
    Case("roberta", f"DynaBERT (RoBERTa base, {TOKENS} tokens)", "ImageNet", "dynabert_roberta", {"classes": 3}),
    Case("autoformer", "AutoFormer-tiny at 224", "ImageNet", "autoformer", {}),
)


def case(name: str) -> Case:
    """The case of a name."""
    return next(one for one in CASES if one.name == name)


def folder_of(one: Case, scratch: Path) -> ModelFolder:
    """The case's model folder, made under ``scratch`` if it is not there; digits is copied without its test data."""
    path = scratch / one.name
    if one.family is None:
        return ModelFolder.resolve(one.name)
    if not path.exists():
        network = random_network(one)
        config = config_of(one.family, network)
        write(network, config, chosen(network, config), path)
    return ModelFolder(path)


def random_network(one: Case) -> ElasticNetwork:
    """The family's network with seeded random weights in which no scale is 0 or 1."""
    assert one.family is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        network = build_network(one.family, one.architecture)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.2, 0.4)
                nn.init.uniform_(module.bias, *one.offsets)
    return network.requires_grad_(requires_grad=False).eval()


def config_of(family: str, network: ElasticNetwork) -> ModelConfig:
    """``config.json`` as an import writes it."""
    architecture = network.config
    assert isinstance(architecture, msgspec.Struct)
    return FAMILIES[family].config(architecture, Task(), Serving(name=family, tokens=TOKENS, token_types=False))


def chosen(network: ElasticNetwork, config: ModelConfig) -> list[Chosen]:
    """Six subnets, evenly spaced in multiply-accumulates."""
    preprocess = parse_preprocessing(config.preprocessing).build()
    empty = empty_network(config.family, config.architecture)
    return choose(network, POINTS, Sizer(empty, config.inputs, preprocess))


def write(network: ElasticNetwork, config: ModelConfig, subnets: Sequence[Chosen], path: Path) -> ModelFolder:
    """A model folder of these subnets. Their accuracies only rise: nothing measures them."""
    records = tuple(
        SubnetRecord(id=one.id, spec=one.spec, accuracy=float(number), accuracy_n=1, macs=one.macs)
        for number, one in enumerate(subnets)
    )
    batches = calibration_images(config)
    statistics = {one.id: calibrate(network, one.spec, batches) for one in subnets}
    front = Front(format=FORMAT, measured_on="nothing: the weights are random", subnets=records)
    return save_supernet(Supernet(config, front, network, statistics), path)


def calibration_images(config: ModelConfig, size: int = 64) -> list[Tensor]:
    """A few random images as a network takes them; none for networks that are no image classifiers."""
    if config.task != "image-classification":
        return []
    generator = torch.Generator().manual_seed(_SEED)
    return [torch.randn(4, 3, size, size, generator=generator).contiguous(memory_format=torch.channels_last)]


def many_specs(network: ElasticNetwork, count: int) -> list[SubnetSpec]:
    """Distinct random subnets, among them the smallest and the largest."""
    rng, space = np.random.default_rng(_SEED), network.space
    found = dict.fromkeys((space.smallest(), space.largest()))
    while len(found) < count:
        found[space.sample(rng)] = None
    return list(found)


def request(config: ModelConfig, rows: int) -> list[np.ndarray[Any, Any]]:
    """Random request tensors: pixels, token ids, full masks."""
    rng = np.random.default_rng(_SEED)
    tensors = []
    for spec in config.inputs:
        shape = (rows, *spec.row_shape)
        if spec.dtype.kind == "f":
            tensors.append(rng.random(shape, dtype=np.float32).astype(spec.dtype))
        elif spec.name == "attention_mask":
            tensors.append(np.ones(shape, spec.dtype))
        else:
            high = 256 if spec.datatype == "UINT8" else 1000
            tensors.append(rng.integers(0, high, shape).astype(spec.dtype))
    return tensors
