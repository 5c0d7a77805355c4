"""Rewrite a subnet's graph so that its large layers multiply 8-bit integers: static post-training quantisation.

The scheme is that of Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference" (CVPR 2018), in the form that oneDNN computes and torch's compiler emits for processors (``torch/_inductor/
fx_passes/quantization.py``): weights are s8, symmetric, with a scale per output channel; activations are u8, with one
scale and zero point per tensor that were fitted beforehand (``ranges.py``). Products are added up in 32 bits. Biases,
sums and activations are applied to them in float32 before they are rounded once, to the u8 that the next layer reads.

- A layer's result is u8 if a layer of integers reads it, and whatever else reads it gets back what those stand for: so
  between two layers no float32 is written, and the shortcuts of a residual network are u8, too.
- The first layer and the last, which lose most, and small ones, which save nothing, stay float32.
"""

from collections.abc import Collection, Mapping
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, fx
from torch._ops import OpOverload

from superserve.supernet.packed import operators
from superserve.supernet.packed.fuse import ACTIVATIONS, are_alike
from superserve.supernet.packed.graph import Graph, arguments_of, aten, elements_per_row, order_of, shape
from superserve.supernet.packed.operators import INT_CONV, INT_CONV_ADD_INTO, INT_LINEAR, INT_LINEAR_ADD

_onednn = torch.ops.onednn

#: Multiply-accumulates per row up to which a layer stays float32: a call takes torch twice as long to set up as one of
#: floats. Lower than what float32 is packed from, since a small layer between two large ones keeps their numbers in u8:
#: of 0, 200,000, 500,000 and more, this was the fastest for small subnets of digits and CIFAR-10 in batches of 8.
SMALL: Final = 200_000

#: The largest s8 that a weight becomes: -128 has no counterpart.
WEIGHT_MAX: Final = 127

_CONV: Final = aten.conv2d.default
_LINEAR: Final = aten.linear.default

#: Activations that oneDNN computes as it writes, of those in `ACTIVATIONS`.
_FUSED: Final[Mapping[Any, frozenset[Any]]] = {
    _CONV: frozenset({aten.relu.default, aten.hardswish.default, aten.silu.default, aten.hardtanh.default}),
    _LINEAR: frozenset({aten.relu.default, aten.hardswish.default, aten.silu.default, aten.gelu.default}),
}


class Affine(NamedTuple):
    """What u8 stand for: ``(u8 - zero_point) * scale``."""

    scale: float
    zero_point: int


#: Of what is no u8, but float32.
_PLAIN: Final = Affine(1.0, 0)


class Layer(NamedTuple):
    """A convolution or linear layer with a constant weight, and what is computed as it writes."""

    node: fx.Node
    activation: fx.Node | None
    add: fx.Node | None
    """A sum of its result and another batch; its activation, if it has one, is a ReLU of the sum."""
    result: fx.Node
    """The last of these."""

    @property
    def is_conv(self) -> bool:
        """Or a linear layer."""
        return self.node.target is _CONV

    @property
    def source(self) -> fx.Node:
        """What it reads."""
        return arguments_of(self.node)[0]  # type: ignore[no-any-return]

    @property
    def other(self) -> fx.Node | None:
        """What is added."""
        if self.add is None:
            return None
        first, second, _ = arguments_of(self.add)
        return second if first is self.node else first  # type: ignore[no-any-return]


def large_layers(graph: Graph) -> list[Layer]:
    """The layers that may be computed in integers, in the order of their results: not the first, the last, small ones.

    Args:
        graph: with its normalisations folded in (`fold_norms`).
    """
    found = [node for node in graph.calls(_CONV, _LINEAR) if _is_constant(graph, node)]
    inner = [node for node in found[1:-1] if elements_per_row(node) * _weight(graph, node)[0].numel() > SMALL]
    order = order_of(graph)
    added: set[fx.Node] = set()
    layers = []
    for node in reversed(inner):  # of two layers that a sum adds, the later one makes it: what it adds is there by then
        layer = _layer(graph, node, added)
        added |= {layer.add} if layer.add else set()
        layers.append(layer)
    return sorted(layers, key=lambda layer: order[layer.result])


def _is_constant(graph: Graph, node: fx.Node) -> bool:
    _, weight, bias, *_ = arguments_of(node)
    return weight in graph.values and (bias is None or bias in graph.values)


def _weight(graph: Graph, node: fx.Node) -> Tensor:
    return graph.exact[arguments_of(node)[1]].float()


def _layer(graph: Graph, node: fx.Node, added: Collection[fx.Node]) -> Layer:
    """A layer with what comes after it, as far as it can be computed on the way."""
    follower = _only_user(node)
    if follower is not None and follower.target in _FUSED[node.target]:
        return Layer(node, follower, None, follower)
    if follower is None or follower in added or not _is_sum(graph, follower):
        return Layer(node, None, None, node)
    last = _only_user(follower)
    if node.target is _CONV and last is not None and last.target is aten.relu.default:
        return Layer(node, last, follower, last)
    return Layer(node, None, follower, follower)


def _only_user(node: fx.Node) -> fx.Node | None:
    users = list(node.users)
    return users[0] if len(users) == 1 else None


def _is_sum(graph: Graph, node: fx.Node) -> bool:
    if node.target is not aten.add.Tensor:
        return False
    first, second, alpha = arguments_of(node)
    return alpha == 1 and first is not second and are_alike(graph, first, second)


def rounded_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A weight (outputs, ...) in s8, and the scale of each output channel (outputs,)."""
    scale = weight.abs().flatten(1).amax(1) / WEIGHT_MAX
    # A channel of zeros, or of less than float32 divides by, stays zero at any scale.
    scale = torch.where(scale >= torch.finfo(scale.dtype).tiny, scale, torch.ones_like(scale))
    integers = (weight / scale.view(-1, *(1,) * (weight.dim() - 1))).round()
    return integers.to(torch.int8), scale


def quantise(graph: Graph, ranges: Mapping[str, Affine], float32: Collection[str] = ()) -> None:
    """Have layers compute in integers; what is left is float32, for `optimise` to make ready.

    Args:
        graph: with its normalisations folded in (`fold_norms`).
        ranges: what the u8 of each node stand for, by its name: `ranges.fit` of the same graph.
        float32: layers to leave as they are, by name.
    """
    layers = [layer for layer in large_layers(graph) if layer.node.name not in float32]
    _Rewriter(graph, layers, ranges).rewrite()
    graph.clean()


class _Rewriter:
    """Replaces layers, in the order of their results.

    A result that becomes u8 is two nodes: the layer, and after it a node of what its u8 stand for, which takes the
    result's place. Readers of integers find the one through the other; without other readers, the latter goes.
    """

    def __init__(self, graph: Graph, layers: list[Layer], ranges: Mapping[str, Affine]) -> None:
        self._graph = graph
        self._layers = layers
        self._ranges = ranges
        self._integers: dict[fx.Node, tuple[fx.Node, Affine]] = {}
        self._names: dict[fx.Node, str] = {}  # of results that stay float32: what they were called when ranges were fit
        self._no_offset = graph.constant("no_offset", torch.zeros(1, dtype=torch.int32))
        self._as_integers = self._results_in_integers()

    def rewrite(self) -> None:
        """All layers."""
        for layer in self._layers:
            affine = self._ranges[layer.result.name] if layer.result in self._as_integers else None
            new = self._convolution(layer, affine) if layer.is_conv else self._linear(layer, affine)
            if affine is None:
                self._names[new] = layer.result.name
            else:
                self._follow_up(new, affine)

    def _follow_up(self, new: fx.Node, affine: Affine) -> None:
        """Let those that read a layer's u8 read what they stand for."""
        real = self._graph.follow(new, operators.dequantise, (new, *affine))
        new.replace_all_uses_with(real, delete_user_cb=lambda user: user is not real)
        self._integers[real] = new, affine

    def _results_in_integers(self) -> set[fx.Node]:
        """The results that a layer of integers reads, or a sum does that is u8 itself."""
        layers = {layer.node: layer for layer in self._layers}
        sums = {layer.add: layer for layer in self._layers if layer.add is not None}
        found: set[fx.Node] = set()
        for layer in reversed(self._layers):  # readers first
            if layer.add is not None and not layer.is_conv:
                continue  # a linear layer's sum is float32
            for user in layer.result.users:
                reading, adding = layers.get(user), sums.get(user)
                if (reading is not None and reading.source is layer.result) or (
                    adding is not None and adding.other is layer.result and adding.result in found
                ):
                    found.add(layer.result)
        return found

    def _in_integers(self, node: fx.Node) -> tuple[fx.Node, Affine]:
        """A node's numbers in u8."""
        if node not in self._integers:
            affine = self._ranges[self._names.get(node, node.name)]
            self._integers[node] = self._graph.follow(node, operators.quantise, (node, *affine)), affine
        return self._integers[node]

    def _convolution(self, layer: Layer, affine: Affine | None) -> fx.Node:
        x, _, bias, stride, padding, dilation, groups = arguments_of(layer.node)
        source, read = self._in_integers(x)
        integers, scale = rounded_weight(_weight(self._graph, layer.node))
        packed = _onednn.qconv_prepack(integers, scale, *read, stride, padding, dilation, groups, [1, *shape(x)[1:]])
        weighted = (source, *read, *self._constants(layer.node, packed, scale))
        geometry = (self._float_bias(layer.node, bias), stride, padding, dilation, groups)
        activation = _activation(layer.activation)
        if layer.other is None:
            return self._graph.replace(layer.result, INT_CONV, (*weighted, *geometry, *_written(affine), *activation))
        batch, added = (layer.other, _PLAIN) if affine is None else self._in_integers(layer.other)
        sum_ = (*_written(affine), *added, "sum", 1.0, *activation)
        return self._graph.replace(layer.result, INT_CONV_ADD_INTO, (*weighted, batch, *geometry, *sum_))

    def _linear(self, layer: Layer, affine: Affine | None) -> fx.Node:
        x, _, bias = arguments_of(layer.node)
        source, read = self._in_integers(x)
        integers, scale = rounded_weight(_weight(self._graph, layer.node))
        rows = int(elements_per_row(layer.node) / len(integers))
        packed = _onednn.qlinear_prepack(integers, [rows, integers.shape[1]])
        weighted = (source, *read, *self._constants(layer.node, packed, scale))
        bias, activation = self._float_bias(layer.node, bias), _activation(layer.activation)
        if layer.other is None:
            return self._graph.replace(layer.result, INT_LINEAR, (*weighted, bias, *_written(affine), *activation))
        sum_ = (*_written(None), *_PLAIN, "add", 1.0, *activation)
        return self._graph.replace(layer.result, INT_LINEAR_ADD, (*weighted, layer.other, bias, *sum_))

    def _constants(self, node: fx.Node, packed: Tensor, scale: Tensor) -> tuple[fx.Node, fx.Node, fx.Node]:
        """Weight, scales and zero points."""
        weight = self._graph.constant(f"{node.name}_integers", packed)
        return weight, self._graph.constant(f"{node.name}_scales", scale), self._no_offset

    def _float_bias(self, node: fx.Node, bias: fx.Node | None) -> fx.Node | None:
        return bias if bias is None else self._graph.constant(f"{node.name}_bias", self._graph.exact[bias].float())


def _written(affine: Affine | None) -> tuple[float, int, torch.dtype]:
    """Scale, zero point and dtype of a result."""
    return (*_PLAIN, torch.float32) if affine is None else (*affine, torch.uint8)


def _activation(node: fx.Node | None) -> tuple[str, list[float], str]:
    """As oneDNN's operators of integers take one: name, parameters, algorithm."""
    if node is None:
        return "none", [], ""
    parameters = arguments_of(node)[1:]
    numbers = [float(it) for it in parameters if not isinstance(it, str)]
    assert isinstance(node.target, OpOverload)
    return ACTIVATIONS[node.target], numbers, next((it for it in parameters if isinstance(it, str)), "")
