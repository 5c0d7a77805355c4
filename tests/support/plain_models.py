"""Models as people write them, with nothing of ours in them; sizes are arguments: tests build narrower ones."""

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

M = TypeVar("M", bound=nn.Module)


class Residual(nn.Module):
    """A bottleneck whose middle convolution is grouped."""

    def __init__(self, width: int, middle: int, per_group: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, middle, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, padding=1, groups=middle // per_group)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, width, 1)
        self.bn3 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        y = functional.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        y += x
        return functional.relu(y, inplace=True)


class ResidualCnn(nn.Module):
    """Two stages of bottlenecks behind a strided convolution each, and a classifier with a hidden layer.

    Args:
        middles: per stage and block, the middle channels.
        hidden: neurons of the classifier's hidden layer.
        per_group: channels per group of the middle convolutions.
    """

    def __init__(
        self, middles: Sequence[Sequence[int]] = ((16, 16, 16), (32, 32)), hidden: int = 32, per_group: int = 2
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.stages = nn.ModuleList()
        for number, blocks in enumerate(middles):
            width = 16 * 2**number
            down = nn.Sequential(nn.Conv2d(16, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU())
            self.stages.append(nn.Sequential(down, *(Residual(width, middle, per_group) for middle in blocks)))
        self.fc1 = nn.Linear(32 * 4, hidden)
        self.fc2 = nn.Linear(hidden, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        for stage in self.stages:
            x = stage(x)
        x = functional.adaptive_avg_pool2d(x, 2).flatten(1)
        return self.fc2(self.fc1(x).relu())  # type: ignore[no-any-return]


class Gate(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.expand = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = x.mean((2, 3), keepdim=True)
        return x * self.expand(functional.silu(self.reduce(gate))).sigmoid()  # type: ignore[no-any-return]


class Inverted(nn.Module):
    """A depthwise-separable inverted residual with a gate."""

    def __init__(self, width: int, expanded: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.skips = stride == 1 and width == outputs
        self.expand = nn.Sequential(nn.Conv2d(width, expanded, 1, bias=False), nn.BatchNorm2d(expanded))
        self.depthwise = nn.Conv2d(expanded, expanded, 3, stride=stride, padding=1, groups=expanded, bias=False)
        self.norm = nn.GroupNorm(4, expanded)
        self.gate = Gate(expanded, 16)
        self.project = nn.Sequential(nn.Conv2d(expanded, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = functional.hardswish(self.expand(x))
        y = self.gate(functional.hardswish(self.norm(self.depthwise(y))))
        y = self.project(y)
        return x + y if self.skips else y  # type: ignore[no-any-return]


class MobileCnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1),
            nn.Hardswish(),
            Inverted(16, 32, 24, stride=2),
            Inverted(24, 48, 24),
            Inverted(24, 48, 24),
        )
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))  # type: ignore[no-any-return]


class SelfAttention(nn.Module):
    """Attention with separate projections; shapes by the width of a head, as Hugging Face writes it."""

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.head_width = head_width
        self.query = nn.Linear(width, heads * head_width)
        self.key = nn.Linear(width, heads * head_width, bias=False)
        self.value = nn.Linear(width, heads * head_width)
        self.out = nn.Linear(heads * head_width, width)

    def forward(self, x: Tensor) -> Tensor:
        shape = (*x.shape[:-1], -1, self.head_width)
        q, k, v = (part(x).view(shape).transpose(1, 2) for part in (self.query, self.key, self.value))
        scores = (q @ k.transpose(-2, -1)) / self.head_width**0.5
        y = scores.softmax(dim=-1) @ v
        return self.out(y.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Layer(nn.Module):
    """A pre-norm transformer layer; neurons of 0 leave out the second half."""

    def __init__(self, width: int, heads: int, neurons: int, attention: type[nn.Module] = SelfAttention) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = attention(width, heads, 8)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, neurons)
        self.fc2 = nn.Linear(neurons, width)

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        x = x + scale * self.attention(self.norm1(x))
        return x + self.fc2(functional.gelu(self.fc1(self.norm2(x))))  # type: ignore[no-any-return]


class TinyTransformer(nn.Module):
    """A text classifier.

    Args:
        layers: heads and neurons of each layer.
        attention: class of the attentions.
    """

    def __init__(
        self, layers: Sequence[tuple[int, int]] = ((4, 64),) * 4, attention: type[nn.Module] = SelfAttention
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(20, 32)
        self.places = nn.Parameter(torch.randn(6, 32))
        self.layers = nn.ModuleList(Layer(32, heads, neurons, attention) for heads, neurons in layers)
        self.norm = nn.LayerNorm(32)
        self.head = nn.Linear(32, 3)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.places
        for layer in self.layers:
            x = layer(x, 1.0)
        return self.head(self.norm(x)[:, 0])  # type: ignore[no-any-return]


class CountingAttention(nn.Module):
    """Attention that reshapes by its number of heads and its inner width: they must shrink with the heads."""

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.head_width = head_width
        self.inner = heads * head_width
        self.query = nn.Linear(width, self.inner)
        self.key = nn.Linear(width, self.inner)
        self.value = nn.Linear(width, self.inner)
        self.out = nn.Linear(self.inner, width)

    def forward(self, x: Tensor) -> Tensor:
        rows, length, _ = x.shape
        q, k, v = (
            part(x).view(rows, length, self.heads, self.head_width).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        y = functional.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).reshape(rows, length, self.inner))  # type: ignore[no-any-return]


def counting_transformer(layers: int) -> TinyTransformer:
    """A transformer of `CountingAttention`."""
    return TinyTransformer([(4, 64)] * layers, attention=CountingAttention)


class FusedAttention(nn.Module):
    """Attention with one matrix for queries, keys and values: nobody can see through it without an adapter."""

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.head_width = head_width
        self.qkv = nn.Linear(width, 3 * heads * head_width)
        self.proj = nn.Linear(heads * head_width, width)

    def forward(self, x: Tensor) -> Tensor:
        rows, length, _ = x.shape
        qkv = self.qkv(x).reshape(rows, length, 3, self.num_heads, self.head_width)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        y = functional.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Drawing(nn.Sequential):
    """Draws its weights until they are in range, as `nn.init.trunc_normal_` does, but not for ever."""

    def __init__(self) -> None:
        first = nn.Linear(8, 16)
        super().__init__(first, nn.ReLU(), nn.Linear(16, 4))
        with torch.no_grad():
            weight = first.weight.fill_(9.0)
            for _ in range(1000):
                if not ((weight < -4) | (weight > 4)).any():
                    return
                weight.normal_()
        raise RuntimeError("the weights are never in range")


def randomised(model: M, seed: int = 0) -> M:
    """Give every parameter and statistic values that matter, in evaluation mode; what is computed stays."""
    generator = torch.Generator().manual_seed(seed)
    kept = set(model.state_dict())
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if not tensor.is_floating_point() or name not in kept:
            continue
        with torch.no_grad():
            if name.endswith("running_var") or (tensor.dim() == 1 and name.endswith("weight")):
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif tensor.dim() > 1:
                tensor.normal_(0, tensor[0].numel() ** -0.5, generator=generator)
            else:
                tensor.normal_(0, 0.3, generator=generator)
    return model.eval()
