"""Grouped and other convolutions against ordinary ones of the slice's size."""

from typing import Any

import pytest
import torch
from torch import nn

from superserve.supernet.operators import SlicedConv2d, adopt

GENERATOR = torch.Generator().manual_seed(0)
CASES: dict[str, tuple[dict[str, Any], tuple[int, int], int]] = {
    # Arguments of the whole layer (12 outputs), leading (outputs, inputs) in use, and groups that remain.
    "bias": ({"in_channels": 6, "bias": True}, (5, 4), 1),
    "dilation": ({"in_channels": 6, "dilation": 2, "padding": 2}, (5, 4), 1),
    "uneven kernel": ({"in_channels": 6, "kernel_size": (3, 1), "padding": (1, 0), "stride": (2, 1)}, (5, 4), 1),
    "same padding": ({"in_channels": 6, "padding": "same"}, (5, 4), 1),
    "depthwise": ({"in_channels": 12, "groups": 12, "bias": True}, (7, 7), 7),
    "depthwise, two each": ({"in_channels": 6, "groups": 6}, (8, 4), 4),
    "groups": ({"in_channels": 8, "groups": 4, "bias": True}, (6, 4), 2),
}


@pytest.mark.parametrize("case", CASES)
def test_adopted_convolution_is_the_small_one(case: str) -> None:
    arguments, (outputs, inputs), groups = CASES[case]
    whole = {"out_channels": 12, "kernel_size": 3, "bias": False, **arguments}
    layer = nn.Conv2d(**whole)
    small = nn.Conv2d(**whole | {"out_channels": outputs, "in_channels": inputs, "groups": groups})
    state = {"weight": layer.weight[:outputs, : inputs // groups]}
    small.load_state_dict(state if layer.bias is None else state | {"bias": layer.bias[:outputs]})
    adopt(layer)
    assert isinstance(layer, SlicedConv2d)
    layer.slot.value = layer.bind(outputs, inputs)
    x = torch.randn(2, inputs, 9, 9, generator=GENERATOR)
    assert torch.equal(layer(x), small(x))
    plain = layer.extract(outputs, inputs)
    assert type(plain) is nn.Conv2d
    assert torch.equal(plain(x), small(x))


def test_the_slice_is_a_view() -> None:
    layer = SlicedConv2d(8, 8, 3, groups=4)
    weight, _, _, groups = layer.bind(4, 4)
    assert weight.data_ptr() == layer.weight.data_ptr()
    assert groups == 2


@pytest.mark.parametrize(("outputs", "inputs"), [(6, 3), (5, 4)])
def test_groups_are_whole(outputs: int, inputs: int) -> None:
    with pytest.raises(AssertionError, match="groups"):
        SlicedConv2d(8, 12, 3, groups=4).bind(outputs, inputs)


@pytest.mark.parametrize("rows", [1, 3, 16])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_large_pointwise_convolution_is_the_small_one(rows: int, stride: int) -> None:
    """Large enough for another library than torch chooses: the same sums in another order."""
    layer = SlicedConv2d(160, 160, 1, stride=stride, bias=True)
    x = torch.randn(rows, 128, 28, 28, generator=GENERATOR).contiguous(memory_format=torch.channels_last)
    layer.slot.value = layer.bind(144, 128)
    small = layer.extract(144, 128)
    with torch.inference_mode():
        found, expected = layer(x), small(x)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert found.stride() == expected.stride()


def test_a_large_pointwise_convolution_has_a_gradient() -> None:
    layer = SlicedConv2d(160, 160, 1)
    layer.slot.value = layer.bind(160, 160)
    layer(torch.randn(1, 160, 28, 28, generator=GENERATOR)).sum().backward()
    assert layer.weight.grad is not None


def test_an_adopted_convolution_is_bit_identical_whatever_its_size() -> None:
    layer = nn.Conv2d(160, 160, 1)
    x = torch.randn(2, 160, 28, 28, generator=GENERATOR)
    with torch.inference_mode():
        before = layer(x)
        adopt(layer)
        assert isinstance(layer, SlicedConv2d)
        layer.slot.value = layer.bind(160, 160)
        assert torch.equal(layer(x), before)
