"""Models with adapters: subnets against networks that were built smaller, with the kept weights copied by hand."""

import re
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from superserve.supernet.conversion import Concatenation, Conversion, convert, register_adapter, reorder_by_importance
from superserve.supernet.extract import extract
from support.adapted_models import DenseCnn, TinyGpt, Turned, TurnedAttention
from support.plain_models import FusedAttention, TinyTransformer, randomised

pytestmark = pytest.mark.usefixtures("adapted")

WORDS = torch.randint(0, 20, (3, 6), generator=torch.Generator().manual_seed(0))
PIXELS = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def converted(model: nn.Module, example: Tensor) -> tuple[Conversion, dict[str, Tensor]]:
    """A conversion, checked to compute what the model did, and a copy of the weights."""
    randomised(model).requires_grad_(requires_grad=False)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    before = model(example)
    conversion = convert(model, example)
    assert torch.equal(model(example), before)
    return conversion, state


def leading(state: dict[str, Tensor], small: nn.Module, layers: Sequence[int] = range(9)) -> nn.Module:
    """A smaller network with the leading part of every weight; of fused ones, of each third.

    Args:
        state: the weights of the full network.
        small: the smaller one.
        layers: which of the full network's layers the smaller one has.
    """
    target = small.state_dict()
    for name, tensor in target.items():
        source = state[re.sub(r"^layers\.(\d+)", lambda match: f"layers.{layers[int(match[1])]}", name)]
        if ".qkv." in name or ".c_attn." in name:
            dim = tensor.dim() - 1 if "c_attn" in name else 0
            source = torch.cat([part.narrow(dim, 0, tensor.shape[dim] // 3) for part in source.chunk(3, dim)], dim)
        target[name] = source[tuple(slice(size) for size in tensor.shape)] if tensor.dim() else source
    small.load_state_dict(target)
    return small.eval().requires_grad_(requires_grad=False)


def ratios(conversion: Conversion, **chosen: float) -> dict[str, float]:
    """Full widths, except for those whose name holds a word."""
    full = dict(conversion.space.largest().widths)
    return full | {name: ratio for word, ratio in chosen.items() for name in full if word in name}


def check(
    conversion: Conversion, depths: Sequence[int], widths: dict[str, float], small: nn.Module, example: Tensor
) -> None:
    """A subnet, actuated and extracted, against the network that was built smaller."""
    spec = conversion.space.spec(tuple(depths), widths)
    conversion.actuate(spec)
    with torch.no_grad():
        expected = small(example)
        torch.testing.assert_close(conversion.model(example), expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(conversion.extract(spec)(example), expected, rtol=0, atol=1e-5)


def test_heads_of_a_fused_projection() -> None:
    conversion, state = converted(TinyTransformer(attention=FusedAttention), WORDS)
    small = leading(state, TinyTransformer([(2, 64)] * 4, attention=FusedAttention))
    check(conversion, (4,), ratios(conversion, attention=0.5), small, WORDS)


def test_heads_and_neurons_of_turned_layers_without_a_block() -> None:
    conversion, state = converted(TinyGpt([(4, 64)] * 4), WORDS)
    assert [stage.depths for stage in conversion.report.stages] == [(2, 3, 4)]
    assert {(width.kind, width.kept) for width in conversion.report.widths} == {
        ("heads", (2, 3, 4)),
        ("neurons", (32, 48, 64)),
    }
    assert conversion.space.stages[0].keep(2) == (0, 2)
    small = leading(state, TinyGpt([(3, 32)] * 2), layers=(0, 2))
    check(conversion, (2,), ratios(conversion, attention=0.75, c_fc=0.5), small, WORDS)


def test_layers_of_dense_blocks() -> None:
    """What is left out is read by nobody; growths that differ, and a flattened consumer, make no difference."""
    conversion, state = converted(DenseCnn(), PIXELS)
    assert [(stage.blocks[0], stage.depths) for stage in conversion.report.stages] == [
        ("block1.0", (2, 3)),
        ("block2.0", (2, 3, 4)),
    ]
    for first, second in ((3, 3), (2, 4), (2, 2)):
        blocks = (((8, 8), (8, 4), (8, 8))[:first], ((8, 8),) * second)
        small = DenseCnn(blocks)
        check(conversion, (first, second), ratios(conversion, conv1=0.5), leading(state, small), PIXELS)


def test_statistics_of_what_reads_a_dense_block() -> None:
    """They are as long as what is left, and those of the batch if calibrated."""
    conversion, _ = converted(DenseCnn(), PIXELS)
    spec = conversion.space.spec((2, 3), ratios(conversion))
    statistics = conversion.calibrate([PIXELS], spec)[spec]
    assert len(statistics["transition.0"].single().mean) == 12 + 8 + 4
    assert len(statistics["norm"].single().mean) == 10 + 3 * 8
    assert "block1.2.norm1" not in statistics
    conversion.actuate(spec)
    with torch.no_grad():
        torch.testing.assert_close(conversion.model(PIXELS), conversion.extract(spec)(PIXELS), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["fused", "turned", "dense"])
def test_reordering(name: str) -> None:
    """The full network stays; channels of a concatenation are not moved."""
    model, example = {
        "fused": (TinyTransformer(attention=FusedAttention), WORDS),
        "turned": (TinyGpt(), WORDS),
        "dense": (DenseCnn(), PIXELS),
    }[name]
    conversion, _ = converted(model, example)
    before = model(example)
    orders = reorder_by_importance(conversion)
    assert set(orders) == {width.name for width in conversion.report.widths}
    assert sum(order != tuple(sorted(order)) for order in orders.values()) > len(orders) / 2
    with torch.no_grad():
        torch.testing.assert_close(model(example), before, rtol=0, atol=1e-5)


def test_extracted_modules_are_of_the_original_classes_and_describe_themselves() -> None:
    conversion, _ = converted(TinyGpt(), WORDS)
    plain = conversion.extract(conversion.space.smallest())
    attention, layer = plain.get_submodule("layers.0.attention"), plain.get_submodule("layers.0.c_fc")
    assert type(attention) is TurnedAttention
    assert (attention.heads, attention.inner) == (4, 16)
    assert type(layer) is type(attention.c_attn) is Turned
    assert (layer.outputs, tuple(layer.weight.shape), attention.c_attn.outputs) == (32, (32, 32), 48)
    parts = [part for name, part in extract(conversion.model, conversion.space.smallest(), {}).named_modules() if name]
    assert not any(name.startswith("superserve_") for part in parts for name in vars(part))


class Branches(nn.Module):
    """Convolutions whose outputs are joined: with nothing of its own before them."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Sequential(nn.Conv2d(3, width, 1), nn.ReLU()) for width in widths)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


def test_branches_of_an_inception() -> None:
    """Parts may be anywhere in the module; the first one always runs, since something must be left."""
    register_adapter(Branches)(
        lambda module: Concatenation(parts=tuple(f"branches.{i}" for i in range(len(module.branches))))
    )
    conversion, state = converted(nn.Sequential(Branches((4, 6, 5)), nn.Conv2d(15, 2, 1)), PIXELS)
    (stage,) = conversion.report.stages
    assert stage.depths == (2, 3)
    small = leading(state, nn.Sequential(Branches((4, 6)), nn.Conv2d(10, 2, 1)))
    check(conversion, (2,), {}, small, PIXELS)


class Sorted(Branches):
    """Puts the last branch first."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in reversed(self.branches)], 1)


def test_parts_in_another_order_are_found_out() -> None:
    register_adapter(Sorted)(lambda _module: Concatenation(parts=("branches.0", "branches.1", "branches.2")))
    model = nn.Sequential(nn.Conv2d(3, 3, 1), Sorted((4, 6, 5)), nn.Conv2d(15, 16, 1), nn.ReLU(), nn.Conv2d(16, 2, 1))
    report = convert(randomised(model), PIXELS).report
    assert not report.stages
    (reason,) = [part.reason for part in report.fixed if part.name == "1"]
    assert reason.endswith("computes something else when it is narrower")
