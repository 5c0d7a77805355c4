"""Sizes of OFA-MobileNetV3; its arithmetic is compared with its authors' code in tests/models."""

import pytest
import torch

from superserve.errors import ConfigError, IllegalSubnetError
from superserve.supernet.macs import count_macs
from superserve.supernet.zoo import build_network
from superserve.supernet.zoo.ofa_mobilenet import OfaMobileNetV3, OfaMobileNetV3Config

with torch.device("meta"):
    NETWORKS = {width: OfaMobileNetV3(OfaMobileNetV3Config(width_mult=width)) for width in (1.0, 1.2)}
NETWORK = NETWORKS[1.0]


def test_fixed_layers_follow_the_width_multiplier() -> None:
    """make_divisible(16 * 1.2) is 16 before the rule that no more than a tenth is lost makes it 24."""
    wide = NETWORKS[1.2]
    assert [wide.stem.out_channels, wide.final.out_channels, wide.mix.out_channels] == [24, 1152, 1536]
    assert NETWORK.stem.out_channels == 16


def test_middles_follow_from_the_input_width() -> None:
    geometry = NETWORK.geometry(NETWORK.ofa_spec(7, 3, 2))
    # Stage 1 goes from 24 to 40 channels and squeezes: 72 / 4 = 18 is rounded to 24 (16 would lose too much).
    assert geometry.slices["stages.1.0.expand"] == (72, 24)
    assert geometry.slices["stages.1.0.depthwise"] == (72, 72)
    assert geometry.slices["stages.1.0.squeeze_excite.reduce"] == (24, 72)
    assert geometry.slices["stages.1.1.expand"] == (120, 40)
    assert "stages.0.0.squeeze_excite.reduce" not in geometry.slices
    assert "stages.1.2.expand" not in geometry.slices


def test_entries_go_where_ofa_puts_them() -> None:
    kernels, expand = [3] * 20, [3] * 20
    kernels[5], expand[5] = 7, 6  # the second block of the second stage
    spec = NETWORK.ofa_spec(kernels, expand, [2, 3, 4, 2, 3])
    assert [len(blocks) for blocks in spec.keep] == [2, 3, 4, 2, 3]
    geometry = NETWORK.geometry(spec)
    assert [name for name, kernel in geometry.kernels.items() if kernel == 7] == ["stages.1.1.depthwise"]
    assert geometry.slices["stages.1.1.expand"] == (240, 40)


def test_multiply_accumulates_rise_with_every_dimension() -> None:
    def macs(ks: int, e: int, d: int) -> int:
        return count_macs(NETWORK, NETWORK.ofa_spec(ks, e, d), (torch.zeros(1, 3, 224, 224, device="meta"),))

    smallest = macs(3, 3, 2)
    assert smallest < min(macs(5, 3, 2), macs(3, 4, 2), macs(3, 3, 3))
    # The published range of the width-1.0 network at 224 pixels is about 120 to 560 million.
    assert 110e6 < smallest < 130e6
    assert 540e6 < macs(7, 6, 4) < 580e6


@pytest.mark.parametrize(
    ("arch", "message"),
    [((9, 3, 2), "9 is not one of"), ((3, 5, 2), "5 is not one of"), ((3, 3, 1), "depth 1"), ((3, [3], 2), "give 20")],
)
def test_what_is_not_in_the_space_is_named(arch: tuple[int, int, int], message: str) -> None:
    with pytest.raises(IllegalSubnetError, match=message):
        NETWORK.ofa_spec(*arch)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kernels": [3, 4]}, "must be odd"),
        ({"kernels": [5, 3]}, "rise strictly"),
        ({"expand_ratios": [1, 3]}, "above 1"),
        ({"depths": [0, 2]}, "at least 1"),
        ({"width_mult": 0}, "positive"),
    ],
)
def test_impossible_architectures_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_network("ofa_mobilenet_v3", change)
