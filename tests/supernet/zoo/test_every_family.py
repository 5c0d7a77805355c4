"""What every registered family promises, tried on a small network of each: a new family is tested by existing."""

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from superserve.errors import IllegalSubnetError
from superserve.supernet.actuator import Actuator, apply, bind
from superserve.supernet.calibrate import calibrate
from superserve.supernet.extract import extract
from superserve.supernet.network import ElasticNetwork
from superserve.supernet.operators import AnySubnetNorm, KeepSet, WeightSlice
from superserve.supernet.zoo import build_network, families
from support.supernets import SMALL

ARCHITECTURES: Mapping[str, dict[str, Any]] = {
    "ofa_resnet": msgspec.to_builtins(SMALL),
    "ofa_resnet50": {"classes": 5, "stem_width": 32, "stage_widths": [32, 64], "base_depths": [2, 1]},
    "ofa_mobilenet_v3": {"classes": 5, "width_mult": 0.3},
    "ofa_proxyless": {"classes": 5, "width_mult": 0.3},
    "autoformer": {
        "classes": 5, "image_size": 40, "patch": 8, "width": 24, "embed_dims": [12, 18], "heads": [2, 3],
        "mlp_ratios": [1.5, 2.0], "depths": [2, 3], "max_relative_position": 3,
    },
    "dynabert": {
        "classes": 5, "vocabulary": 30, "hidden": 24, "layers": 4, "heads": 4, "neurons": 40, "positions": 8,
    },
    "dynabert_roberta": {
        "classes": 5, "vocabulary": 30, "hidden": 24, "layers": 4, "heads": 4, "neurons": 40, "positions": 8,
    },
}  # fmt: skip


def test_every_family_is_tried_here() -> None:
    # A converted model is no architecture of its own: tests/supernet/conversion.
    assert set(ARCHITECTURES) == set(families()) - {"converted"}


def _network(family: str) -> ElasticNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build_network(family, ARCHITECTURES[family])
        for name, parameter in network.named_parameters():
            if parameter.dim() == 1:
                nn.init.uniform_(parameter, 0.2, 1.0)
            elif "matrix" in name:
                nn.init.normal_(parameter, std=0.3)
    return network.requires_grad_(requires_grad=False).eval()


def _inputs(family: str, rows: int = 3, seed: int = 0) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    if family.startswith("dynabert"):
        mask = (torch.arange(8) < torch.randint(1, 9, (rows, 1), generator=generator)).long()
        return torch.randint(0, 30, (rows, 8), generator=generator), mask
    channels = 2 if family == "ofa_resnet" else 3
    return (torch.randn(rows, channels, 40, 40, generator=generator),)


@pytest.fixture(params=sorted(ARCHITECTURES))
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_loading_does_not_import_torchs_compiler() -> None:
    """It would cost every worker a second and tens of megabytes."""
    code = (
        "import sys, json; from superserve.supernet.hub import empty_network\n"
        "for family, architecture in json.loads(sys.argv[1]).items():\n"
        "    empty_network(family, architecture)\n"
        "    assert 'torch._dynamo' not in sys.modules, family"
    )
    subprocess.run([sys.executable, "-c", code, json.dumps(ARCHITECTURES)], check=True)


def test_actuated_equals_extracted(family: str) -> None:
    network, rng = _network(family), np.random.default_rng(0)
    outputs = []
    for spec in (network.space.smallest(), network.space.largest(), *(network.space.sample(rng) for _ in range(8))):
        statistics = calibrate(network, spec, [_inputs(family, seed=1), _inputs(family, rows=5, seed=2)])
        apply(bind(network, spec, statistics))
        outputs.append(network(*_inputs(family)))
        plain = extract(network, spec, statistics)
        elastic = (KeepSet, WeightSlice, AnySubnetNorm)
        assert not any(isinstance(module, elastic) for module in plain.modules())
        assert torch.equal(outputs[-1], plain(*_inputs(family)))
    assert not torch.allclose(outputs[0], outputs[1]), "the smallest and the largest compute the same"


def test_there_and_back_is_bit_identical(family: str) -> None:
    network = _network(family)
    specs = {0: network.space.smallest(), 1: network.space.largest()}
    statistics = {index: calibrate(network, spec, [_inputs(family, seed=1)]) for index, spec in specs.items()}
    actuator = Actuator(network, {index: (spec, statistics[index]) for index, spec in specs.items()})
    found = []
    with torch.inference_mode():
        for index in (0, 1, 0):
            actuator.actuate(index)
            found.append(network(*_inputs(family)))
    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[0], found[1])


def test_weights_of_all_subnets_are_the_one_copy(family: str) -> None:
    """But for kernels made from larger ones, which the actuator counts."""
    network = _network(family)
    own = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    for spec in (network.space.smallest(), network.space.largest()):
        geometry = network.geometry(spec)
        for name in geometry.slices:
            layer = network.get_submodule(name)
            assert isinstance(layer, WeightSlice)
            apply(bind(network, spec, None))
            bound = layer.slot.value
            weight = bound if isinstance(bound, Tensor) else bound.weight
            sizes = getattr(layer, "kernels", None)
            small = sizes is not None and geometry.kernels[name] < sizes[-1]
            assert (weight.untyped_storage().data_ptr() in own) != small


def test_a_subnet_outside_the_space_is_refused(family: str) -> None:
    network = _network(family)
    foreign = build_network("ofa_resnet", ARCHITECTURES["ofa_resnet"] | {"width_ratios": [0.3, 1.0]})
    with pytest.raises(IllegalSubnetError):
        bind(network, foreign.space.smallest(), None)


def test_uniform_subnets_span_the_space(family: str) -> None:
    space = _network(family).space
    found = list(space.uniform())
    assert len(set(found)) == len(found)
    assert {space.smallest(), space.largest()} <= set(found)
    for spec in found:
        space.validate(spec)
