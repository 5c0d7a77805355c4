"""A small supernet with random weights and statistics, and subnets for hypothesis."""

import hypothesis.strategies as st
import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from superserve.model_folder import FORMAT, Front, ModelConfig, SubnetRecord, TensorSpec
from superserve.subnet import SearchSpace, SubnetSpec
from superserve.supernet.network import ElasticNetwork, Supernet
from superserve.supernet.operators import NormStatistics, Statistics, SubnetNorm
from superserve.supernet.zoo.ofa_resnet import OfaResNet, OfaResNetConfig, StageConfig

SMALL = OfaResNetConfig(
    in_channels=2,
    classes=5,
    stem_width=8,
    stages=(
        StageConfig(width=16, stride=1, depths=(1, 2, 3)),
        StageConfig(width=24, stride=2, depths=(2, 4)),
    ),
    width_ratios=(0.5, 0.75, 1.0),
    expand_ratios=(0.25, 0.5),
    divisor=4,
)

#: Inputs and outputs like those of `SMALL`, and so few layers that a subnet compiles in seconds.
TINY = OfaResNetConfig(
    in_channels=2,
    classes=5,
    stem_width=8,
    stages=(StageConfig(width=16, stride=2, depths=(1, 2)),),
    width_ratios=(0.5, 1.0),
    expand_ratios=(0.25, 0.5),
    divisor=4,
)


@st.composite
def specs(draw: st.DrawFn, space: SearchSpace) -> SubnetSpec:
    """Any subnet of a space, with every dimension drawn (and shrunk) on its own."""
    depths = tuple(draw(st.sampled_from(stage.depths)) for stage in space.stages)
    return space.spec(depths, {width.name: draw(st.sampled_from(width.ratios)) for width in space.widths})


def small_network(seed: int = 0, architecture: OfaResNetConfig = SMALL) -> OfaResNet:
    """A network of which every weight matters: no scale or shift is 0 or 1."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = OfaResNet(architecture)
        for module in network.modules():
            if isinstance(module, SubnetNorm):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.bias, -0.5, 0.5)
    return network.requires_grad_(requires_grad=False).eval()


def random_statistics(network: ElasticNetwork, spec: SubnetSpec, seed: int = 0) -> Statistics:
    """Statistics that differ in every channel and layer."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: NormStatistics(torch.randn(count, generator=generator), torch.rand(count, generator=generator) + 0.5)
        for name, count in network.geometry(spec).channels.items()
    }


def images(rows: int, seed: int = 0) -> Tensor:
    """Network inputs (rows, 2, 9, 9): an odd size, so that strides round."""
    return torch.randn(rows, 2, 9, 9, generator=torch.Generator().manual_seed(seed))


def pixels(rows: int, seed: int = 0) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Request inputs (rows, 9, 9, 2) as `small_supernet` takes them."""
    return np.random.default_rng(seed).integers(0, 256, (rows, 9, 9, 2), dtype=np.uint8)


def small_supernet(count: int = 3, architecture: OfaResNetConfig = SMALL) -> Supernet:
    """A supernet with a front of ``count`` subnets: the smallest, the largest, and random ones between them."""
    network = small_network(architecture=architecture)
    space, rng = network.space, np.random.default_rng(0)
    chosen = [space.smallest(), *(space.sample(rng) for _ in range(count - 2)), space.largest()]
    records = tuple(
        SubnetRecord(id=f"s{number}", spec=spec, accuracy=60.0 + number, accuracy_n=100)
        for number, spec in enumerate(chosen)
    )
    config = ModelConfig(
        format=FORMAT,
        name="small",
        family="ofa_resnet",
        architecture=msgspec.to_builtins(architecture),
        task="image-classification",
        dataset="random",
        labels=("a", "b", "c", "d", "e"),
        inputs=(TensorSpec("image", "UINT8", (-1, 9, 9, 2)),),
        outputs=(TensorSpec("logits", "FP32", (-1, 5)),),
        preprocessing={"type": "image", "layout": "HWC", "scale": 1 / 255, "mean": [0.4, 0.5], "std": [0.2, 0.3]},
    )
    front = Front(format=FORMAT, measured_on="nothing", subnets=records)
    statistics = {record.id: random_statistics(network, record.spec, seed) for seed, record in enumerate(records)}
    return Supernet(config, front, network, statistics)
