"""Layers in 8-bit integers: what the same network gives in float32 if its weights and activations are rounded.

The oracle is written by hand for two small networks: where they say ``seen``, activations are rounded to what their u8
stand for, and their weights are rounded beforehand. What is left between it and oneDNN is the order of summation: where
a sum lies between two u8, they may round it differently.
"""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis.extra.numpy import array_shapes, arrays
from hypothesis.strategies import floats, integers
from torch import Tensor, nn
from torch.nn import functional

from superserve.processor import has_int8
from superserve.supernet.aot import EXAMPLE_ROWS, trace, without_writes
from superserve.supernet.compiled import module_tensors
from superserve.supernet.packed import operators
from superserve.supernet.packed import quantise as quantise_module
from superserve.supernet.packed.build import About, write_packed
from superserve.supernet.packed.fuse import fold_norms, optimise
from superserve.supernet.packed.graph import Graph
from superserve.supernet.packed.module import PackedModule, SharedParts
from superserve.supernet.packed.quantise import large_layers, quantise, rounded_weight
from superserve.supernet.packed.ranges import ACTIVATION_MAX, Ranges, affine_of, fit, rounded
from superserve.supernet.packed.trace import Traced

pytestmark = [
    pytest.mark.skipif(not has_int8(), reason="without instructions for them, sums of integers may overflow"),
    # torch's tracer warns about parts of torch.
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
]

Array = np.ndarray[Any, Any]

Seen = Callable[[str, Tensor], Tensor]
"""What becomes of an activation, by the name of its node in a trace."""


def as_it_is(_name: str, x: Tensor) -> Tensor:
    return x


class Convolutions(nn.Module):
    """Two residual blocks, one with a layer in its shortcut, and a depthwise layer; all results of layers are read.

    Args:
        shown: whether the results of both blocks are outputs, so that nothing may be written over them.
    """

    def __init__(self, *, shown: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.convs = nn.ModuleList([nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 1)])
        self.strided = nn.ModuleList([nn.Conv2d(16, 24, 3, stride=2, padding=1), nn.Conv2d(24, 32, 1, bias=False)])
        self.shortcut = nn.Conv2d(16, 32, 1, stride=2)
        self.depthwise = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.mixed = nn.Conv2d(32, 32, 1)
        self.head = nn.Linear(32, 5)
        self._shown = shown

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(rows, 3, 8, 8) to logits and, if they are shown, the results of blocks."""
        return self.run(x, as_it_is)

    def run(self, x: Tensor, seen: Seen) -> tuple[Tensor, ...]:
        """`forward`, its activations seen by somebody."""
        start = seen("relu", torch.relu(self.stem(x)))
        middle = seen("relu_1", torch.relu(self.convs[0](start)))
        first = seen("relu_2", torch.relu(self.convs[1](middle) + start))
        middle = seen("relu_3", torch.relu(self.strided[0](first)))
        beside = seen("conv2d_4", self.shortcut(first))
        second = seen("relu_4", torch.relu(self.strided[1](middle) + beside))
        deep = seen("hardswish", functional.hardswish(self.depthwise(second)))
        logits: Tensor = self.head(torch.relu(self.mixed(deep)).mean((2, 3)))
        return (logits, first, second) if self._shown else (logits,)


class ReadAgain(nn.Module):
    """Sums with a batch that the layer itself reads, and with one that is read later: neither may be written over."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.convs = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1) for _ in range(4))
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(rows, 3, 8, 8) to logits."""
        return self.run(x, as_it_is)

    def run(self, x: Tensor, seen: Seen) -> tuple[Tensor, ...]:
        """`forward`, its activations seen by somebody."""
        start = seen("relu", torch.relu(self.stem(x)))
        first = seen("relu_1", torch.relu(self.convs[0](start) + start))
        second = seen("relu_2", torch.relu(self.convs[1](first) + start))
        third = seen("relu_3", torch.relu(self.convs[2](second) + start))
        return (self.head(torch.relu(self.convs[3](third)).mean((2, 3))),)


class Products(nn.Module):
    """Two layers with a shortcut around them, between normalisations, as transformers have them."""

    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Linear(6, 16)
        self.norms = nn.ModuleList(nn.LayerNorm(16) for _ in range(2))
        self.wide, self.narrow = nn.Linear(16, 48), nn.Linear(48, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(rows, 7, 6) to (rows, 7, 5)."""
        return self.run(x, as_it_is)

    def run(self, x: Tensor, seen: Seen) -> tuple[Tensor, ...]:
        """`forward`, its activations seen by somebody."""
        before = self.norms[0](self.start(x))
        middle = seen("gelu", functional.gelu(self.wide(seen("layer_norm", before))))
        return (self.head(self.norms[1](self.narrow(middle) + before)),)


class Sums(nn.Module):
    """Layers that read sums which other layers have made, with no normalisation between them."""

    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Linear(6, 16)
        self.wide = nn.ModuleList(nn.Linear(16, 48) for _ in range(2))
        self.narrow = nn.ModuleList(nn.Linear(48, 16) for _ in range(2))
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(rows, 7, 6) to (rows, 7, 5)."""
        return self.run(x, as_it_is)

    def run(self, x: Tensor, seen: Seen) -> tuple[Tensor, ...]:
        """`forward`, its activations seen by somebody."""
        before = self.start(x)
        middle = seen("gelu", functional.gelu(self.wide[0](seen("linear", before))))
        before = self.narrow[0](middle) + before
        middle = seen("gelu_1", functional.gelu(self.wide[1](seen("add_16", before))))
        return (self.head(self.narrow[1](middle) + before),)


def images(rows: int) -> Tensor:
    x = torch.rand(rows, 3, 8, 8, generator=torch.Generator().manual_seed(rows))
    return x.to(memory_format=torch.channels_last)


def vectors(rows: int) -> Tensor:
    return torch.randn(rows, 7, 6, generator=torch.Generator().manual_seed(rows))


class Case(NamedTuple):
    """A network, its inputs of so many rows, and where each of its outputs is seen."""

    network: Convolutions | ReadAgain | Products | Sums
    inputs: Callable[[int], Tensor]
    outputs: Sequence[str]


@pytest.fixture(params=["convolutions", "convolutions shown", "read again", "products", "sums"])
def case(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Case:
    monkeypatch.setattr(quantise_module, "SMALL", 0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if request.param in {"products", "sums"}:
            network_of = Products if request.param == "products" else Sums
            return Case(network_of().eval().requires_grad_(requires_grad=False), vectors, [""])
        if request.param == "read again":
            return Case(ReadAgain().eval().requires_grad_(requires_grad=False), images, [""])
        shown = request.param.endswith("shown")
        network = Convolutions(shown=shown).eval().requires_grad_(requires_grad=False)
        return Case(network, images, ["", "relu_2", "relu_4"] if shown else [""])


def traced(case: Case) -> tuple[Graph, Ranges]:
    """The case's graph, and what was fitted to it."""
    tensors = module_tensors(case.network)
    with torch.inference_mode():
        graph = Graph(without_writes(trace(case.network, (case.inputs(EXAMPLE_ROWS),))), tensors, tensors)
        fold_norms(graph)
        return graph, fit(graph, [[case.inputs(rows)] for rows in (16, 15)])


def packed(case: Case, graph: Graph, path: Path) -> PackedModule:
    tensors = module_tensors(case.network)
    with torch.inference_mode():
        optimise(graph, torch.float32)
        write_packed(Traced(graph, tensors, "requests"), About("hash", "subnet", "int8"), path)
    return PackedModule.load(path, SharedParts("hash", tensors, tuple))  # type: ignore[arg-type]


@torch.inference_mode()
def oracle(case: Case, ranges: Ranges, x: Tensor) -> tuple[Tensor, ...]:
    """The network in float32 with weights and activations rounded."""
    network = copy.deepcopy(case.network)
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    for layer in layers[1:-1]:
        integers, scale = rounded_weight(layer.weight)
        layer.weight.copy_(integers * scale.view(-1, *(1,) * (layer.weight.dim() - 1)))
    return network.run(x, lambda name, value: rounded(value, ranges.affines[name]))


def test_integers_give_what_rounded_floats_give(case: Case, tmp_path: Path) -> None:
    """Each number is within two steps of its u8, and nearly all are the same; at any batch size, and again."""
    graph, ranges = traced(case)
    quantise(graph, ranges.affines)
    module = packed(case, graph, tmp_path / "packed")
    for rows in (1, 3, 16, 3):
        x = case.inputs(rows)
        found, expected = module.run([x]), oracle(case, ranges, x)
        for name, got, wanted in zip(case.outputs, found, expected, strict=True):
            step = ranges.affines[name].scale if name else float(wanted.abs().max()) / ACTIVATION_MAX
            assert (got - wanted).abs().max() <= 2 * step + 1e-5
            assert ((got - wanted).abs() <= 0.1 * step + 1e-5).float().mean() >= 0.95
        assert torch.equal(x, case.inputs(rows))
        (floats, *_) = case.network(x)
        assert 1e-5 < (found[0] - floats).abs().max() / floats.abs().max() < 0.1


def test_a_layer_that_is_left_is_float32(case: Case) -> None:
    graph, ranges = traced(case)
    names = {layer.node.name for layer in large_layers(graph)}
    quantise(graph, ranges.affines, float32=names)
    assert not any("onednn.q" in str(node.target) or "quantise" in str(node.target) for node in graph.graph.nodes)
    assert names == set(ranges.noise)
    assert all(0 < lost < 0.01 for lost in ranges.noise.values())


class TwoReaders(nn.Module):
    """Layers that read an input themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, 4, 3) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """(rows, 3, 8, 8) to (rows, 4, 6, 6)."""
        first, second, third = (conv(x) for conv in self.convs)
        return torch.relu(first) + torch.relu(second) + torch.relu(third)


def test_inputs_are_fitted_to_like_what_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantise_module, "SMALL", 0)
    module = TwoReaders().eval().requires_grad_(requires_grad=False)
    tensors = module_tensors(module)
    with torch.inference_mode():
        graph = Graph(without_writes(trace(module, (images(EXAMPLE_ROWS),))), tensors, tensors)
        found = fit(graph, [[4 * images(3) - 2], [images(3)]])
    assert found.affines["x"].scale == pytest.approx(4 / ACTIVATION_MAX, rel=0.05)
    assert found.affines["x"].zero_point == pytest.approx(ACTIVATION_MAX / 2, rel=0.05)


@given(arrays(np.float32, array_shapes(min_dims=2, max_dims=4), elements=floats(-1e3, 1e3, width=32)))
def test_weights_are_within_half_a_step_and_the_largest_of_a_channel_is_the_largest(values: Array) -> None:
    weight = torch.from_numpy(values)
    integers, scale = rounded_weight(weight)
    steps = scale.view(-1, *(1,) * (weight.dim() - 1))
    assert integers.dtype == torch.int8
    assert int(integers.min()) >= -127
    assert ((integers * steps - weight).abs() <= 0.5001 * steps).all()
    largest = integers.flatten(1).abs().amax(1)
    assert ((largest == 127) | (weight.flatten(1).abs().amax(1) < 1e-35)).all()


@given(floats(-1e3, 0, width=32), floats(0, 1e3, width=32), integers(0, 100))
def test_u8_cover_their_range_and_stand_for_zero(low: float, high: float, part: int) -> None:
    affine = affine_of(low, high)
    x = torch.tensor([0.0, low, high, low + (high - low) * part / 100])
    found = operators.dequantise(operators.quantise(x, *affine), *affine)
    assert found[0] == 0
    assert found.isfinite().all()
    assert ((found - x).abs() <= max(1.001 * affine.scale, 1e-35)).all()
