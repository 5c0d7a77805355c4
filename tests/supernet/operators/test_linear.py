"""Linear layers, embeddings and layer normalisation against ordinary ones of the slice's size."""

import pytest
import torch
from torch import nn
from torch.nn import functional

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


WIDTH, HEAD = 24, 4


class GroupedQueryBlock(nn.Module):
    """Attention in which two query heads share one of keys and values, then a gated MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.o = SlicedLinear(WIDTH, 8 * HEAD), SlicedLinear(8 * HEAD, WIDTH)
        self.k, self.v = SlicedLinear(WIDTH, 4 * HEAD), SlicedLinear(WIDTH, 4 * HEAD)
        self.gate, self.up, self.down = SlicedLinear(WIDTH, 40), SlicedLinear(WIDTH, 40), SlicedLinear(40, WIDTH)

    def actuate(self, heads: int, neurons: int) -> None:
        for layer, width in ((self.q, heads * HEAD), (self.k, heads // 2 * HEAD), (self.v, heads // 2 * HEAD)):
            layer.slot.value = layer.bind(width, WIDTH)
        self.o.slot.value = self.o.bind(WIDTH, heads * HEAD)
        for layer in (self.gate, self.up):
            layer.slot.value = layer.bind(neurons, WIDTH)
        self.down.slot.value = self.down.bind(WIDTH, neurons)

    def forward(self, x: torch.Tensor, heads: int = 8, neurons: int = 40) -> torch.Tensor:
        """What lies beyond ``heads`` and ``neurons`` is set to zero, if it is there."""
        q, k, v = (layer(x).unflatten(-1, (-1, HEAD)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        mixed = functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        mixed = torch.cat((mixed[:, :heads], torch.zeros_like(mixed[:, heads:])), 1)
        x = x + self.o(mixed.transpose(1, 2).flatten(2))
        hidden = functional.silu(self.gate(x)) * self.up(x)
        hidden = torch.cat((hidden[..., :neurons], torch.zeros_like(hidden[..., neurons:])), -1)
        result: torch.Tensor = x + self.down(hidden)
        return result


@pytest.mark.parametrize(("heads", "neurons"), [(2, 8), (4, 40), (6, 24), (8, 16)])
def test_grouped_query_heads_and_gated_neurons(heads: int, neurons: int) -> None:
    """Whole groups of heads and leading neurons in use are the full block with the others set to zero."""
    torch.manual_seed(0)
    block, x = GroupedQueryBlock(), torch.randn(2, 5, WIDTH, generator=GENERATOR)
    block.actuate(8, 40)
    expected = block(x, heads, neurons)
    block.actuate(heads, neurons)
    torch.testing.assert_close(block(x), expected)
