"""Fit what the 8-bit integers of each activation stand for, to the numbers that it holds on examples.

(Elsewhere this is called calibration, a word that here means the statistics of normalisations.)
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, fx, nn

from superserve.supernet.packed.graph import Graph, arguments_of
from superserve.supernet.packed.quantise import Affine, Layer, large_layers, rounded_weight

#: The largest u8.
ACTIVATION_MAX: Final = 255


class Ranges(NamedTuple):
    """What was found out about a graph."""

    affines: dict[str, Affine]
    """What u8 are to stand for, by the name of the node that they are of."""
    noise: dict[str, float]
    """Of each layer that may be computed in integers, by name: the mean square of what rounding its weight and what
    it reads changes in its result, over that of the result."""

    def noisiest(self, part: float) -> frozenset[str]:
        """That part of the layers that lose most."""
        count = round(part * len(self.noise))
        return frozenset(sorted(self.noise, key=lambda name: -self.noise[name])[:count])


def fit(graph: Graph, batches: Sequence[Sequence[Tensor]]) -> Ranges:
    """Run a graph in float32 on examples, and fit the u8 of each node to what it holds.

    Args:
        graph: with its normalisations folded in (`fold_norms`); left as it is.
        batches: inputs of the graph; what is lost is measured on the first.
    """
    layers = large_layers(graph)
    seen = {node: _Seen() for node in _activations(layers)}
    for batch in batches:
        _Watched(graph, seen.keys(), lambda node, value: seen[node].add(value)).run_on(batch)
    affines = {node.name: it.affine() for node, it in seen.items()}
    return Ranges(affines, _noise(graph, layers, affines, batches[0]))


def _activations(layers: Iterable[Layer]) -> dict[fx.Node, None]:
    """What may have to be in u8, each once."""
    found = (node for layer in layers for node in (layer.source, layer.other, layer.result))
    return dict.fromkeys(node for node in found if node is not None)


class _Watched(fx.Interpreter):
    """Runs a graph, and shows some of its values."""

    def __init__(self, graph: Graph, wanted: Iterable[fx.Node], show: Callable[[fx.Node, Tensor], None]) -> None:
        super().__init__(nn.Module(), graph=graph.graph)
        self._graph = graph
        self._wanted = frozenset(wanted)
        self._show = show

    def run_on(self, inputs: Sequence[Tensor]) -> None:
        """Run it on one batch."""
        given = dict(zip(self._graph.inputs, inputs, strict=True))
        for node in self._wanted & given.keys():
            self._show(node, given[node])
        self.run(initial_env={**self._graph.exact, **given})  # of nodes that have a value, nothing is computed

    def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401 (of whatever the operator gives)
        """See `fx.Interpreter.run_node`."""
        value = super().run_node(n)
        if n in self._wanted:
            self._show(n, value)
        return value


class _Seen:
    """The range of one activation.

    All of it: with outliers cut off, so that the mean square of errors is least, outputs differed more from float32 on
    three of the four subnets of digits and CIFAR-10 that it was tried on.
    """

    def __init__(self) -> None:
        self._low = self._high = 0.0  # zero is one of the numbers: paddings are, and what ReLU cuts off

    def add(self, value: Tensor) -> None:
        """Of one batch."""
        low, high = (float(it) for it in torch.aminmax(value))
        self._low, self._high = min(self._low, low), max(self._high, high)

    def affine(self) -> Affine:
        """The u8 spread over it."""
        return affine_of(self._low, self._high)


def affine_of(low: float, high: float) -> Affine:
    """Spread the u8 over a range that includes 0, which one of them stands for."""
    scale = (high - low) / ACTIVATION_MAX
    if scale < torch.finfo(torch.float32).tiny:  # nothing but zeros was seen
        return Affine(1.0, 0)
    return Affine(scale, min(max(round(-low / scale), 0), ACTIVATION_MAX))


def rounded(x: Tensor, affine: Affine) -> Tensor:
    """What is left of numbers that were u8 for a while."""
    return torch.fake_quantize_per_tensor_affine(x, *affine, 0, ACTIVATION_MAX)


def _noise(
    graph: Graph, layers: Iterable[Layer], affines: dict[str, Affine], batch: Sequence[Tensor]
) -> dict[str, float]:
    sources = {layer.source for layer in layers}
    nodes = {layer.node for layer in layers}
    inputs: dict[fx.Node, Tensor] = {}
    found: dict[str, float] = {}

    def look(node: fx.Node, value: Tensor) -> None:
        if node in nodes:
            x, weight, bias, *rest = arguments_of(node)
            integers, scale = rounded_weight(graph.exact[weight].float())
            again = (integers * scale.view(-1, *(1,) * (integers.dim() - 1))).to(value.dtype)
            assert callable(node.target)
            other = node.target(rounded(inputs[x], affines[x.name]), again, bias and graph.exact[bias], *rest)
            signal = value.square().mean().clamp_min(torch.finfo(value.dtype).tiny)
            found[node.name] = float((other - value).square().mean() / signal)
        if node in sources:
            inputs[node] = value

    _Watched(graph, sources | nodes, look).run_on(batch)
    return found
