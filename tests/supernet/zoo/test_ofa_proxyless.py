"""Sizes of OFA-ProxylessNAS, as its authors' code gives them; its arithmetic is compared with that in tests/models."""

import pytest
import torch
from torch import nn

from superserve.errors import IllegalSubnetError
from superserve.supernet.macs import count_macs
from superserve.supernet.operators import SubnetNorm
from superserve.supernet.zoo.ofa_inverted import SqueezeExcite
from superserve.supernet.zoo.ofa_proxyless import OfaProxyless, OfaProxylessConfig
from support.sizes import parameters

with torch.device("meta"):
    NETWORK = OfaProxyless(OfaProxylessConfig())


@pytest.mark.parametrize(
    ("arch", "millions", "macs"),
    [((3, 3, 2), 3.719, 265.5), ((5, 4, 3), 5.054, 487.0), ((7, 6, 4), 7.942, 1004.9)],
)
def test_sizes_are_those_of_ofas_code(arch: tuple[int, int, int], millions: float, macs: float) -> None:
    """``count_parameters`` and ``count_net_flops`` of what ``get_active_subnet`` extracts."""
    spec = NETWORK.ofa_spec(*arch)
    assert parameters(NETWORK, spec) / 1e6 == pytest.approx(millions, abs=0.001)
    found = count_macs(NETWORK, spec, (torch.zeros(1, 3, 224, 224, device="meta"),))
    assert found / 1e6 == pytest.approx(macs, abs=0.05)


def test_fixed_layers_follow_the_width_multiplier() -> None:
    slices = NETWORK.geometry(NETWORK.space.largest()).slices
    assert NETWORK.stem.out_channels == 40
    assert slices["first.project"] == (24, 40)
    assert [slices[f"stages.{i}.0.project"][0] for i in range(6)] == [32, 56, 104, 128, 248, 416]
    assert (NETWORK.mix.in_channels, NETWORK.mix.out_channels) == (416, 1664)


def test_the_last_stage_has_one_block_whose_kernel_and_width_are_elastic() -> None:
    kernels, expand = [3] * 21, [3] * 21
    kernels[20], expand[20] = 5, 4
    spec = NETWORK.ofa_spec(kernels, expand, [2, 3, 4, 2, 3, 1])
    assert [len(blocks) for blocks in spec.keep] == [2, 3, 4, 2, 3, 1]
    geometry = NETWORK.geometry(spec)
    assert [name for name, kernel in geometry.kernels.items() if kernel == 5] == ["stages.5.0.depthwise"]
    assert geometry.slices["stages.5.0.expand"] == (992, 248)
    assert NETWORK.ofa_spec(3, 3, 4) == NETWORK.ofa_spec(3, 3, [4, 4, 4, 4, 4, 1])


def test_activations_and_normalisations_are_proxyless_nas_own() -> None:
    """Normalisation divides by a larger epsilon than in OFA's other families; nothing squeezes."""
    modules = list(NETWORK.modules())
    assert {module.eps for module in modules if isinstance(module, SubnetNorm)} == {1e-3}
    assert not any(isinstance(module, nn.Hardswish | SqueezeExcite) or type(module) is nn.ReLU for module in modules)


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ((9, 3, 2), "9 is not one of"),
        ((3, 3, 5), "depth 5"),
        ((3, 3, 0), "depth 0"),
        ((3, [3] * 20, 2), "give 21"),
        ((3, 3, [2] * 5), "give 6"),
    ],
)
def test_what_is_not_in_the_space_is_named(arch: tuple[int, int, int], message: str) -> None:
    with pytest.raises(IllegalSubnetError, match=message):
        NETWORK.ofa_spec(*arch)
