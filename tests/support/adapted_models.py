"""Models as people write them that `convert` wants an adapter for, and the adapters."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from superserve.supernet.conversion import Concatenation, Projection, Units
from support.plain_models import FusedAttention


def fused_attention(attention: FusedAttention) -> Units:
    """Its heads: a third of ``qkv`` each, of which the leading rows are kept."""
    return Units(count=attention.num_heads, produced_by={"qkv": 3}, read_by=("proj",), attributes=("num_heads",))


class Turned(nn.Module):
    """A linear layer whose weight is (inputs, outputs), and that knows its outputs, as Hugging Face's ``Conv1D``."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        self.weight = nn.Parameter(torch.randn(inputs, outputs))
        self.bias = nn.Parameter(torch.randn(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.addmm(self.bias, x.reshape(-1, x.shape[-1]), self.weight)
        return y.view(*x.shape[:-1], self.outputs)


def turned(_layer: Turned) -> Projection:
    """What it computes."""
    return Projection(transposed=True, counts_outputs=("outputs",))


class TurnedAttention(nn.Module):
    """Attention as GPT-2 has it: one turned layer for queries, keys and values, split by their width."""

    def __init__(self, width: int, heads: int, head_width: int = 8) -> None:
        super().__init__()
        self.heads, self.head_width, self.inner = heads, head_width, heads * head_width
        self.c_attn = Turned(width, 3 * self.inner)
        self.c_proj = Turned(self.inner, width)

    def forward(self, x: Tensor) -> Tensor:
        shape = (*x.shape[:-1], -1, self.head_width)
        q, k, v = (part.view(shape).transpose(1, 2) for part in self.c_attn(x).split(self.inner, dim=2))
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(y.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


def turned_attention(attention: TurnedAttention) -> Units:
    """Its heads."""
    return Units(count=attention.heads, produced_by={"c_attn": 3}, read_by=("c_proj",), attributes=("inner",))


class TurnedLayer(nn.Module):
    def __init__(self, width: int, heads: int, neurons: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = TurnedAttention(width, heads)
        self.c_fc, self.c_proj = Turned(width, neurons), Turned(neurons, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.c_proj(functional.gelu(self.c_fc(self.norm2(x))))  # type: ignore[no-any-return]


class TinyGpt(nn.Module):
    """A language model; sizes are the heads and neurons of each layer."""

    def __init__(self, layers: Sequence[Sequence[int]] = ((4, 64),) * 3) -> None:
        super().__init__()
        self.tokens = nn.Embedding(20, 32)
        self.layers = nn.Sequential(*(TurnedLayer(32, heads, neurons) for heads, neurons in layers))
        self.head = nn.Linear(32, 20)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.layers(self.tokens(ids)))  # type: ignore[no-any-return]


class DenseLayer(nn.Module):
    """A bottleneck over everything that was made so far."""

    def __init__(self, inputs: int, middle: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, middle, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, growth, 3, padding=1)

    def forward(self, made: list[Tensor]) -> Tensor:
        y = self.conv1(functional.relu(self.norm1(torch.cat(made, 1))))
        return self.conv2(functional.relu(self.norm2(y)))  # type: ignore[no-any-return]


class DenseBlock(nn.ModuleList):
    """Layers whose outputs are put one behind the other."""

    def __init__(self, inputs: int, layers: Sequence[Sequence[int]]) -> None:
        super().__init__()
        for middle, growth in layers:
            self.append(DenseLayer(inputs, middle, growth))
            inputs += growth
        self.outputs = inputs

    def forward(self, x: Tensor) -> Tensor:
        made = [x]
        for layer in self:
            made.append(layer(made))
        return torch.cat(made, 1)


def dense_block(block: DenseBlock) -> Concatenation:
    """All of its layers, which are called by their numbers."""
    return Concatenation(parts=tuple(str(number) for number in range(len(block))))


class DenseCnn(nn.Module):
    """Two dense blocks; sizes are, per block and layer, the middle channels and how many the layer adds."""

    def __init__(
        self, blocks: Sequence[Sequence[Sequence[int]]] = (((16, 8), (16, 4), (16, 8)), ((16, 8),) * 4)
    ) -> None:
        super().__init__()
        first, second = blocks
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.block1 = DenseBlock(12, first)
        self.transition = nn.Sequential(nn.BatchNorm2d(self.block1.outputs), nn.Conv2d(self.block1.outputs, 10, 1))
        self.block2 = DenseBlock(10, second)
        self.norm = nn.BatchNorm2d(self.block2.outputs)
        self.head = nn.Linear(self.block2.outputs * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.avg_pool2d(self.transition(self.block1(self.stem(x))), 2)
        x = functional.relu(self.norm(self.block2(x)))
        return self.head(functional.adaptive_avg_pool2d(x, 2).flatten(1))  # type: ignore[no-any-return]
