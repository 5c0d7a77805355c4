"""SubnetNorm of other shapes than images."""

import pytest
import torch
from torch import nn

from superserve.supernet.operators import NormStatistics, SubnetNorm1d, adopt, batch_statistics

GENERATOR = torch.Generator().manual_seed(0)


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 3)])
@pytest.mark.parametrize("affine", [True, False])
def test_one_dimensional_norm_is_the_small_norm(shape: tuple[int, ...], affine: bool) -> None:
    layer, small = nn.BatchNorm1d(8, affine=affine), nn.BatchNorm1d(5, affine=affine).eval()
    if affine:
        nn.init.uniform_(layer.weight, generator=GENERATOR)
    statistics = NormStatistics(torch.randn(5, generator=GENERATOR), torch.rand(5, generator=GENERATOR))
    small.load_state_dict(
        {name: value[:5] for name, value in layer.state_dict().items() if name in {"weight", "bias"}}
        | {"running_mean": statistics.mean, "running_var": statistics.variance, "num_batches_tracked": torch.tensor(0)}
    )
    adopt(layer)
    assert isinstance(layer, SubnetNorm1d)
    layer.slot.value = layer.bind(5, statistics)
    x = torch.randn(shape, generator=GENERATOR)
    assert torch.equal(layer(x), small(x))
    plain = layer.extract(5, statistics).eval()
    assert type(plain) is nn.BatchNorm1d
    assert torch.equal(plain(x), small(x))


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 3), (4, 5, 3, 2)])
def test_batch_statistics_are_those_that_training_normalises_with(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=GENERATOR)
    flat = x.transpose(0, 1).flatten(1)
    mean, variance = batch_statistics(x)
    torch.testing.assert_close(mean, flat.mean(1))
    torch.testing.assert_close(variance, flat.var(1, correction=0))
