"""Rewrite a subnet's graph into operators of oneDNN: fold normalisations in, pack weights, fuse what follows."""

from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, fx
from torch._ops import OpOverload

from superserve.supernet.packed import operators
from superserve.supernet.packed.graph import Graph, arguments_of, aten, elements_per_row, getitem, order_of, shape
from superserve.supernet.packed.operators import (
    CONV,
    CONV_ADD,
    CONV_ADD_INTO,
    IN_PLACE,
    INT_CONV,
    INT_CONV_ADD_INTO,
    INT_LINEAR,
    INT_LINEAR_ADD,
    LINEAR,
    LINEAR_ADD,
)

_onednn = torch.ops.mkldnn

#: Multiply-accumulates per row up to which a matrix product in float32 is left to torch, unpacked: what setting up an
#: operator of oneDNN's costs (20 us) is more than it saves there (docs/subnetact.md).
_SMALL: Final = 500_000

#: No activation, as oneDNN's operators take one: name, parameters, algorithm.
_NONE: Final[tuple[str, list[float], str | None]] = ("none", [], None)

#: Activations that oneDNN computes as it writes a layer's result, by its names for them.
ACTIVATIONS: Final = {
    aten.relu.default: "relu",
    aten.hardswish.default: "hardswish",
    aten.hardsigmoid.default: "hardsigmoid",
    aten.sigmoid.default: "sigmoid",
    aten.tanh.default: "tanh",
    aten.silu.default: "swish",
    aten.gelu.default: "gelu",
    aten.hardtanh.default: "hardtanh",
    aten.leaky_relu.default: "leaky_relu",
}


class _Products(NamedTuple):
    """How a kind of matrix product is computed: of a packed matrix, and of a small plain one."""

    packed: Any
    plain: Any


_LINEARS: Final = _Products(LINEAR, aten.linear.default)
_POINTWISE: Final = _Products(operators.pointwise, operators.plain_pointwise)


def optimise(graph: Graph, dtype: torch.dtype) -> None:
    """Make a graph of plain ATen operators one that runs well; what it computes stays the same but for rounding.

    Args:
        graph: as traced.
        dtype: what to compute in: weights are packed in it.
    """
    fold_norms(graph)
    _Packer(graph, dtype).pack()
    _fuse_activations(graph)
    _fuse_sums(graph)
    _add_in_place(graph)
    _keep_what_is_added_to(graph)
    _write_in_place(graph)
    graph.clean()


def fold_norms(graph: Graph) -> None:
    """Batch normalisation after a convolution becomes part of its weight and bias."""
    for norm in graph.calls(aten._native_batch_norm_legit_no_training.default):  # noqa: SLF001 (its name)
        source, *_ = arguments_of(norm)
        result = getitem(norm, 0)
        if result is not None and source.target is aten.conv2d.default and len(source.users) == 1:
            x, weight, _, *geometry = arguments_of(source)
            factor, offset = _folded(graph, norm)
            folded = graph.constant(f"{source.name}_folded", graph.exact[weight].float() * factor.view(-1, 1, 1, 1))
            bias = graph.constant(f"{source.name}_bias", offset)
            graph.replace(result, aten.conv2d.default, (x, folded, bias, *geometry))
    graph.clean()


def _folded(graph: Graph, norm: fx.Node) -> tuple[Tensor, Tensor]:
    """What a normalisation multiplies the weight of the convolution before it with, and the bias that it makes."""
    source, scale, shift, mean, variance, _, eps = arguments_of(norm)
    bias = arguments_of(source)[2]
    factor = torch.rsqrt(graph.exact[variance].float() + eps)
    if scale is not None:
        factor = factor * graph.exact[scale].float()
    before = graph.exact[mean].float()
    if bias is not None:
        before = before - graph.exact[bias].float()
    offset = -before * factor
    return factor, offset if shift is None else offset + graph.exact[shift].float()


class _Packer:
    """Packs the weights of convolutions and linear layers.

    Args:
        graph: what they stand in.
        dtype: to compute in.
    """

    def __init__(self, graph: Graph, dtype: torch.dtype) -> None:
        self._graph = graph
        self._dtype = dtype

    def pack(self) -> None:
        """All whose weight and bias are constants."""
        for node in self._graph.calls(aten.conv2d.default):
            x, weight, bias, *geometry = arguments_of(node)
            if self._is_constant(weight, bias):
                self._convolution(node, x, weight, bias, geometry)
        for node in self._graph.calls(aten.linear.default):
            x, weight, bias = arguments_of(node)
            if self._is_constant(weight, bias):
                self._product(_LINEARS, node, x, self._graph.exact[weight], bias, stored=weight)
        for node in self._graph.calls(aten.addmm.default):
            bias, x, weight, *factors = arguments_of(node)
            if self._is_constant(weight, bias) and factors == [1, 1]:
                self._product(_LINEARS, node, x, self._graph.exact[weight].t(), bias)

    def _is_constant(self, weight: fx.Node, bias: fx.Node | None) -> bool:
        return weight in self._graph.values and (bias is None or bias in self._graph.values)

    def _convolution(
        self, node: fx.Node, x: fx.Node, weight: fx.Node, bias: fx.Node | None, geometry: list[Any]
    ) -> None:
        stride, padding, dilation, groups = geometry
        exact = self._graph.exact[weight]
        if exact.shape[2:] == (1, 1) and groups == 1 and set(stride) == {1} and not any(padding):
            # A convolution can add what comes next and rectify the sum as it writes, a product only add it.
            summed = any(user.target is aten.add.Tensor for user in node.users)
            if not summed or self._is_small(node, exact):
                self._product(_POINTWISE, node, x, exact.flatten(1), bias)
                return
        # Of no known shape, oneDNN may choose blocks that the convolution then reorders in every call, 40 times slower.
        packed = _onednn._reorder_convolution_weight(  # noqa: SLF001 (as torch's compiler packs)
            exact.to(self._dtype), [*padding], [*stride], [*dilation], groups, [1, *shape(x)[1:]]
        )
        new = self._graph.constant(f"{node.name}_packed", packed)
        bias = self._in_dtype(node, bias)
        self._graph.replace(node, CONV, (x, new, bias, padding, stride, dilation, groups, *_NONE))

    def _is_small(self, node: fx.Node, weight: Tensor) -> bool:
        """Whether a product is left to torch, where it can be."""
        return self._dtype == torch.float32 and elements_per_row(node) * weight.shape[1] <= _SMALL

    def _product(
        self,
        kind: _Products,
        node: fx.Node,
        x: fx.Node,
        matrix: Tensor,
        bias: fx.Node | None,
        *,
        stored: fx.Node | None = None,
    ) -> None:
        """Replace a product with a matrix (outputs, inputs); ``stored`` is its node where the model itself holds it."""
        if self._is_small(node, matrix):
            plain = stored or self._graph.constant(f"{node.name}_weight", matrix.float().contiguous())
            self._graph.replace(node, kind.plain, (x, plain, bias))
            return
        packed = _onednn._reorder_linear_weight(  # noqa: SLF001 (as torch's compiler packs)
            matrix.to(self._dtype).contiguous(), int(elements_per_row(node) / matrix.shape[0])
        )
        new = self._graph.constant(f"{node.name}_packed", packed)
        self._graph.replace(node, kind.packed, (x, new, self._in_dtype(node, bias), *_NONE))

    def _in_dtype(self, node: fx.Node, bias: fx.Node | None) -> fx.Node | None:
        if bias is None or self._graph.values[bias].dtype == self._dtype:
            return bias
        return self._graph.constant(f"{node.name}_bias", self._graph.exact[bias].to(self._dtype))


def _fuse_activations(graph: Graph) -> None:
    for node in graph.calls(CONV, LINEAR, operators.pointwise):
        users = list(node.users)
        if len(users) == 1 and users[0].target in ACTIVATIONS:
            parameters = arguments_of(users[0])[1:]
            numbers = [float(it) for it in parameters if not isinstance(it, str)]
            algorithm = next((it for it in parameters if isinstance(it, str)), None)
            activation = (ACTIVATIONS[users[0].target], numbers, algorithm)
            graph.replace(users[0], node.target, (*node.args[:-3], *activation))
    graph.clean()


def _fuse_sums(graph: Graph) -> None:
    """A sum of a layer's result and another batch of its shape is made as the layer writes."""
    for node in graph.calls(aten.add.Tensor):
        first, second, alpha = arguments_of(node)
        if alpha == 1 and first is not second and are_alike(graph, first, second):
            # The later of two layers: the earlier one's result is there by then.
            order = order_of(graph)
            for layer, other in sorted(((first, second), (second, first)), key=lambda pair: -order[pair[0]]):
                if len(layer.users) == 1 and layer.args[-3:] == _NONE and _fuse_sum(graph, node, layer, other):
                    break
    graph.clean()


def are_alike(graph: Graph, first: Any, second: Any) -> bool:  # noqa: ANN401 (what may be added)
    """Whether both are batches of one shape."""
    if not (isinstance(first, fx.Node) and isinstance(second, fx.Node)):
        return False
    shapes = {tuple(str(it) for it in node.meta["val"].shape) for node in (first, second)}
    return len(shapes) == 1 and first not in graph.values and second not in graph.values


def _fuse_sum(graph: Graph, node: fx.Node, layer: fx.Node, other: fx.Node) -> bool:
    """Replace a sum by a layer that adds; False if the layer is of no kind that can."""
    if layer.target is CONV:
        users = list(node.users)
        rectified = len(users) == 1 and users[0].target is aten.relu.default
        x, *rest = layer.args[:-3]
        sum_: tuple[Any, ...] = ("add", 1.0, "relu" if rectified else None, [], None)
        graph.replace(users[0] if rectified else node, CONV_ADD, (x, other, *rest, *sum_))
    elif layer.target is LINEAR:
        x, weight, bias = layer.args[:3]
        graph.replace(node, LINEAR_ADD, (x, other, weight, bias, "add"))
    elif layer.target is operators.pointwise:
        x, weight, bias = layer.args[:3]
        graph.replace(node, operators.pointwise_add, (x, other, weight, bias))
    else:
        return False
    return True


def _add_in_place(graph: Graph) -> None:
    """Sums go where what is added was, if nothing needs that any more: known when all layers are where they stay."""
    for node in graph.calls(CONV_ADD):
        x, other, *rest = node.args
        assert isinstance(other, fx.Node)
        if other is not x and is_free(graph, other, node):
            graph.replace(node, CONV_ADD_INTO, (other, x, *rest))


def _keep_what_is_added_to(graph: Graph) -> None:
    """Layers of integers add by writing over a batch: over a copy of it, if something else needs that."""
    for node in graph.calls(INT_CONV_ADD_INTO):
        x, batch = node.args[0], node.args[operators.ADDED_TO]
        assert isinstance(batch, fx.Node)
        if batch is x or not is_free(graph, batch, node):
            node.update_arg(operators.ADDED_TO, graph.follow(batch, aten.clone.default, (batch,)))


def _write_in_place(graph: Graph) -> None:
    """What is computed number by number goes where its first argument was, if nothing needs that any more."""
    for node in graph.calls(*IN_PLACE):
        first, *rest = arguments_of(node)
        if isinstance(first, fx.Node) and is_free(graph, first, node) and are_alike(graph, first, node):
            assert isinstance(node.target, OpOverload)
            graph.replace(node, IN_PLACE[node.target], (first, *rest))


#: What gives memory of its own.
_FRESH: Final = frozenset({
    CONV, CONV_ADD, CONV_ADD_INTO, LINEAR, LINEAR_ADD, operators.pointwise, operators.pointwise_add,
    operators.plain_pointwise, operators.quantise, operators.dequantise, aten.linear.default, aten.clone.default,
    INT_CONV, INT_CONV_ADD_INTO, INT_LINEAR, INT_LINEAR_ADD, *IN_PLACE, *IN_PLACE.values(),
})  # fmt: skip

#: What keeps no view of its arguments.
_READING: Final = _FRESH | {aten.mean.dim, aten.avg_pool2d.default, aten.layer_norm.default}


def is_free(graph: Graph, first: fx.Node, node: fx.Node) -> bool:
    """Whether a node may be written over one of its arguments: nothing sees that through a view, or reads it later."""
    order = order_of(graph)
    return first.target in _FRESH and all(
        user is node or (order[user] < order[node] and user.target in _READING) for user in first.users
    )
