"""Linear layers, embeddings and layer normalisation against ordinary ones of the slice's size."""

import pytest
import torch
from torch import nn

from superserve.supernet.operators import SlicedEmbedding, SlicedLayerNorm, SlicedLinear, adopt

GENERATOR = torch.Generator().manual_seed(0)


def test_linear_without_bias() -> None:
    layer, x = SlicedLinear(6, 8, bias=False), torch.randn(3, 4, generator=GENERATOR)
    layer.slot.value = layer.bind(5, 4)
    expected = x @ layer.weight[:5, :4].T
    torch.testing.assert_close(layer(x), expected)
    plain = layer.extract(5, 4)
    assert type(plain) is nn.Linear
    assert set(plain.state_dict()) == {"weight"}
    torch.testing.assert_close(plain(x), expected)


def test_embedding_keeps_its_leading_columns() -> None:
    layer, x = SlicedEmbedding(10, 8, padding_idx=0), torch.tensor([[0, 3], [9, 3]])
    layer.slot.value = layer.bind(5, 10)
    assert layer.slot.value.data_ptr() == layer.weight.data_ptr()
    assert torch.equal(layer(x), layer.weight[x][..., :5])
    plain = layer.extract(5, 10)
    assert type(plain) is nn.Embedding
    assert torch.equal(plain(x), layer(x))


@pytest.mark.parametrize("arguments", [{}, {"elementwise_affine": False}, {"bias": False}, {"eps": 0.1}])
def test_layer_norm_of_the_leading_width(arguments: dict[str, float]) -> None:
    layer = nn.LayerNorm(8, **arguments)  # type: ignore[arg-type]
    if layer.elementwise_affine:
        nn.init.uniform_(layer.weight, 0.5, 1.5, generator=GENERATOR)
    small = nn.LayerNorm(5, **arguments)  # type: ignore[arg-type]
    small.load_state_dict({name: value[:5] for name, value in layer.state_dict().items()})
    adopt(layer)
    assert isinstance(layer, SlicedLayerNorm)
    layer.slot.value = layer.bind(5, 5)
    x = torch.randn(3, 4, 5, generator=GENERATOR)
    assert torch.equal(layer(x), small(x))
    plain = layer.extract(5, 5)
    assert type(plain) is nn.LayerNorm
    assert torch.equal(plain(x), small(x))


def test_layer_norm_has_one_width() -> None:
    with pytest.raises(AssertionError, match="keeps its width"):
        SlicedLayerNorm(8).bind(5, 4)
