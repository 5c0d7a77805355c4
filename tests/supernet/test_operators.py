"""Each operator against an ordinary layer of the slice's size."""

import copy

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from torch import Tensor, nn
from torch.nn import functional

from superserve.supernet.operators import (
    LayerSelect,
    NormStatistics,
    SlicedConv2d,
    SlicedLinear,
    SubnetNorm,
    batch_statistics,
)

GENERATOR = torch.Generator().manual_seed(0)


@given(outputs=st.integers(1, 12), inputs=st.integers(1, 6), stride=st.sampled_from([1, 2]))
def test_sliced_conv_is_the_small_conv(outputs: int, inputs: int, stride: int) -> None:
    layer = SlicedConv2d(6, 12, 3, stride=stride)
    small = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    small.load_state_dict({"weight": layer.weight[:outputs, :inputs]})
    layer.slot.value = layer.bind(outputs, inputs)
    x = torch.randn(2, inputs, 7, 7, generator=GENERATOR)
    torch.testing.assert_close(layer(x), small(x), rtol=1e-5, atol=1e-6)


@given(outputs=st.integers(1, 12), inputs=st.integers(1, 6))
def test_sliced_linear_is_the_small_linear(outputs: int, inputs: int) -> None:
    layer = SlicedLinear(6, 12)
    small = nn.Linear(inputs, outputs)
    small.load_state_dict({"weight": layer.weight[:outputs, :inputs], "bias": layer.bias[:outputs]})
    layer.slot.value = layer.bind(outputs, inputs)
    x = torch.randn(3, inputs, generator=GENERATOR)
    torch.testing.assert_close(layer(x), small(x), rtol=1e-5, atol=1e-6)


@given(channels=st.integers(1, 12))
def test_subnet_norm_is_the_small_norm_in_evaluation(channels: int) -> None:
    layer, small = SubnetNorm(12), nn.BatchNorm2d(channels).eval()
    nn.init.uniform_(layer.weight, generator=GENERATOR)
    nn.init.uniform_(layer.bias, generator=GENERATOR)
    mean = torch.randn(channels, generator=GENERATOR)
    variance = torch.rand(channels, generator=GENERATOR) + 0.1
    small.load_state_dict(
        {
            "weight": layer.weight[:channels],
            "bias": layer.bias[:channels],
            "running_mean": mean,
            "running_var": variance,
            "num_batches_tracked": torch.tensor(0),
        }
    )
    layer.slot.value = layer.bind(channels, NormStatistics(mean, variance))
    x = torch.randn(2, channels, 3, 3, generator=GENERATOR)
    torch.testing.assert_close(layer(x), small(x), rtol=0, atol=0)


def test_subnet_norm_without_statistics_uses_the_batch() -> None:
    layer = SubnetNorm(4)
    layer.slot.value = layer.bind(3, None)
    x = torch.randn(5, 3, 2, 2, generator=GENERATOR) * 7 + 3
    mean, variance = batch_statistics(layer(x).detach())
    torch.testing.assert_close(mean, torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(variance, torch.ones(3), rtol=1e-4, atol=0)


def test_batch_statistics_are_biased() -> None:
    """Divided by n, not n - 1: what OFA averages and batch_norm normalises with."""
    x = torch.tensor([0.0, 2.0]).reshape(2, 1, 1, 1)
    assert [value.item() for value in batch_statistics(x)] == [1.0, 1.0]


class Add(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 + self.value


@pytest.mark.parametrize(("keep", "expected"), [((), 1.0), ((0,), 3.0), ((1, 2), 11.0), ((0, 1, 2), 19.0)])
def test_layer_select_runs_the_kept_blocks_in_order(keep: tuple[int, ...], expected: float) -> None:
    select = LayerSelect(Add(1), Add(2), Add(3))
    select.slot.value = select.bind(keep)
    assert select(torch.tensor(1.0)).item() == expected


def test_skipped_blocks_are_the_identity() -> None:
    """Bit for bit, without a copy."""
    select = LayerSelect(Add(1), Add(2))
    select.slot.value = select.bind(())
    x = torch.randn(4, generator=GENERATOR)
    assert select(x) is x


def test_views_share_the_layers_storage() -> None:
    conv, linear, norm = SlicedConv2d(4, 8, 3), SlicedLinear(4, 8), SubnetNorm(8)
    for layer, weight in (
        (conv, conv.bind(5, 3).weight),
        (linear, linear.bind(5, 3).weight),
        (norm, norm.bind(5, None).scale),
    ):
        assert weight is not None
        assert weight.untyped_storage().data_ptr() == layer.weight.untyped_storage().data_ptr()
        assert weight.data_ptr() == layer.weight.data_ptr()


def test_gradients_reach_the_leading_part_only() -> None:
    layer = SlicedConv2d(4, 8, 1)
    layer.slot.value = layer.bind(5, 3)
    layer(torch.ones(1, 3, 2, 2)).sum().backward()
    assert layer.weight.grad is not None
    assert (layer.weight.grad[:5, :3] != 0).all()
    assert layer.weight.grad.count_nonzero() == 15


@pytest.mark.parametrize(
    ("sliced", "plain"),
    [
        (SlicedConv2d(4, 8, 3), nn.Conv2d(4, 8, 3, bias=False)),
        (SlicedLinear(4, 8), nn.Linear(4, 8)),
        (SubnetNorm(8), nn.BatchNorm2d(8, track_running_stats=False)),
        (LayerSelect(nn.Linear(1, 1)), nn.Sequential(nn.Linear(1, 1))),
    ],
)
def test_state_dict_is_the_plain_layers(sliced: nn.Module, plain: nn.Module) -> None:
    assert isinstance(sliced, type(plain))
    found = {name: tensor.shape for name, tensor in sliced.state_dict().items()}
    assert found == {name: tensor.shape for name, tensor in plain.state_dict().items()}


def test_a_copied_layer_starts_without_the_originals_views() -> None:
    """Otherwise it would go on computing with the original's weights."""
    layer = SlicedLinear(4, 8)
    layer.slot.value = layer.bind(8, 4)
    with pytest.raises(AttributeError):
        copy.deepcopy(layer)(torch.zeros(1, 4))
    assert functional.linear(torch.zeros(1, 4), layer.weight, layer.bias).shape == (1, 8)
