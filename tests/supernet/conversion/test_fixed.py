"""What the tracer is not sure of stays fixed, with a reason; and what it claims is tried before it is believed."""

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from superserve.supernet.conversion import Conversion, convert
from superserve.supernet.conversion.rules import RULES

EXAMPLE = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """``fc1`` feeds ``between``, which feeds ``fc2``; ``plain`` makes sure that something is elastic."""

    def __init__(self, between: Callable[["Net", Tensor], Tensor], inputs: int = 32) -> None:
        super().__init__()
        self.fc1 = nn.Linear(8, 32)
        self.other = nn.Linear(8, 32)
        self.fc2 = nn.Linear(inputs, 16)
        self.plain = nn.Linear(16, 16)
        self.fc3 = nn.Linear(16, 4)
        self.scale = nn.Parameter(torch.rand(32))
        self.between = between
        self.x = EXAMPLE

    def forward(self, x: Tensor) -> Tensor:
        self.x = x
        y = functional.layer_norm(self.fc2(self.between(self, self.fc1(x))), (16,))
        return self.fc3(self.plain(y).relu())  # type: ignore[no-any-return]


def reasons(conversion: Conversion) -> dict[str, str]:
    return {part.name: part.reason for part in conversion.report.fixed}


def elastic(conversion: Conversion) -> set[str]:
    return {layer for width in conversion.report.widths for layer in width.layers}


FIXED: dict[str, tuple[Callable[[Net, Tensor], Tensor], int, str]] = {
    "unknown function": (lambda _net, x: torch.cdist(x, x) @ x, 32, "cdist in the model itself is not known"),
    "unknown in-place function": (lambda _net, x: x.renorm_(2, 0, 1), 32, "renorm in the model itself is not known"),
    "sorted": (lambda _net, x: x.sort(dim=1).values, 32, "sort .* runs along it"),
    "softmax over it": (lambda _net, x: x.softmax(-1), 32, "softmax .* runs along it"),
    "parameter of the model": (lambda net, x: x * net.scale, 32, "mul .* a tensor that no sliced layer makes"),
    "concatenated": (lambda net, x: torch.cat([x, net.other(net.x)], 1), 64, "concatenates it with others"),
    "taken apart": (lambda _net, x: x.chunk(2, dim=1)[0], 16, "takes it apart; .* adapter"),
    "half of it": (lambda _net, x: x[:, :16], 16, "picks part of it"),
    "picked by a tensor": (lambda _net, x: x[:, torch.arange(16)], 16, "picks by a tensor"),
    "reversed": (lambda _net, x: x.flip(1), 32, "flip .* runs along it"),
    "summed over": (lambda _net, x: x / x.sum(1, keepdim=True), 32, "sum .* reduces it"),
    "normalised": (lambda _net, x: functional.layer_norm(x, (32,)), 32, "normalises over its whole width"),
    "shuffled channels": (lambda _net, x: x.view(-1, 4, 8).transpose(1, 2).flatten(1), 32, "mixes it with another"),
    "multiplied by a matrix": (lambda _net, x: x @ torch.ones(32, 32), 32, "matmul .* sums over it"),
    "einsum": (
        lambda _net, x: torch.einsum("bc,cd->bd", x, torch.ones(32, 32)),
        32,
        "einsum .* combines it with a tensor",
    ),
    "copied by index": (lambda _net, x: torch.zeros(4, 32).index_copy(0, torch.arange(4), x), 32, "index_copy"),
    "assigned": (lambda _net, x: _assigned(x), 32, "writes into it"),
    "padded": (lambda _net, x: functional.pad(x, (1, 1)), 34, "adds to it"),
    "a computed layer": (
        lambda net, x: functional.linear(x, net.other.weight.repeat(1, 4)[:, :32]),
        32,
        "computes its weights, or uses another layer's",
    ),
}


def _assigned(x: Tensor) -> Tensor:
    x[:, 3] = 1.0
    return x


@pytest.mark.parametrize("name", FIXED)
def test_what_cannot_be_followed_stays_fixed(name: str) -> None:
    between, inputs, message = FIXED[name]
    torch.manual_seed(0)
    model = Net(between, inputs).eval().requires_grad_(requires_grad=False)
    before = model(EXAMPLE)
    conversion = convert(model, EXAMPLE)
    assert elastic(conversion) == {"plain", "fc3"}
    assert re.search(message, reasons(conversion)["fc1"])
    conversion.actuate(conversion.space.smallest())
    assert model(EXAMPLE).shape == before.shape
    conversion.actuate(conversion.space.largest())
    assert torch.equal(model(EXAMPLE), before)


FOLLOWED: dict[str, tuple[Callable[[Net, Tensor], Tensor], int]] = {
    "activation": (lambda _net, x: functional.gelu(x), 32),
    "in place": (lambda _net, x: x.mul_(2).relu_(), 32),
    "gated by another layer": (lambda net, x: x * net.other(net.x).sigmoid(), 32),
    "heads apart": (lambda _net, x: x.view(4, -1, 4).softmax(2).flatten(1), 32),
    "channels repeated in place": (lambda _net, x: x.repeat_interleave(2, dim=1), 64),
    "with a new dimension": (lambda _net, x: x[:, None].expand(-1, 3, -1).mean(1), 32),
    "flattened with what follows": (lambda _net, x: (x[..., None] * torch.ones(3)).flatten(1), 96),
    "einsum by channel": (lambda net, x: torch.einsum("bc,bc->bc", x, net.other(net.x)), 32),
}


@pytest.mark.parametrize("name", FOLLOWED)
def test_what_treats_channels_alone_is_followed(name: str) -> None:
    between, inputs = FOLLOWED[name]
    torch.manual_seed(0)
    model = Net(between, inputs).eval().requires_grad_(requires_grad=False)
    conversion = convert(model, EXAMPLE)
    assert {"fc1", "fc2"} <= elastic(conversion)
    spec = conversion.space.smallest()
    conversion.actuate(spec)
    torch.testing.assert_close(model(EXAMPLE), conversion.extract(spec)(EXAMPLE), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("claimed", "between", "message"),
    [
        ("flip", lambda _net, x: x.flip(1), "fc2 computes something else when it is narrower"),
        ("renorm", lambda _net, x: x.renorm(2, 0, 1) * x.shape[1], "computes something else when it is narrower"),
        ("cdist", lambda _net, x: x + x.new_zeros(32), "does not run when it is narrower: RuntimeError"),
    ],
)
def test_a_wrong_rule_is_found_out_by_running(
    monkeypatch: pytest.MonkeyPatch, claimed: str, between: Callable[[Net, Tensor], Tensor], message: str
) -> None:
    monkeypatch.setitem(RULES, claimed, lambda call: list(call.first.dims))
    monkeypatch.setitem(RULES, "add", lambda call: list(call.first.dims))
    torch.manual_seed(0)
    model = Net(between).eval().requires_grad_(requires_grad=False)
    conversion = convert(model, EXAMPLE)
    assert elastic(conversion) == {"plain", "fc3"}
    assert message in reasons(conversion)["fc1"]


def _net(change: Callable[[Net], None]) -> Net:
    torch.manual_seed(0)
    model = Net(lambda _net, x: x.relu()).eval().requires_grad_(requires_grad=False)
    change(model)
    return model


def _shared(model: Net) -> None:
    model.again = model.fc1


def _tied(model: Net) -> None:
    model.other.weight = model.fc1.weight


def _patched(model: Net) -> None:
    model.fc1.forward = model.fc1.forward  # type: ignore[method-assign]


def _named(model: Net) -> None:
    model.fc1.slot = 1  # type: ignore[assignment]


def _looked_at(model: Net) -> None:
    model.between = lambda net, x: x + net.fc1.weight.sum() * 0.0


def _weight_norm(model: Net) -> None:
    nn.utils.parametrizations.weight_norm(model.fc1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_shared, "stands in the model under several names"),
        (_patched, "fc1: its forward was replaced"),
        (_named, "fc1: it has an attribute 'slot' of its own"),
        (_looked_at, "fc1.weight is not only used by its own layer: the model itself uses it in sum"),
        (_tied, ""),
        (_weight_norm, ""),
    ],
)
def test_layers_that_are_not_their_own_stay_fixed(change: Callable[[Net], None], message: str) -> None:
    conversion = convert(_net(change), EXAMPLE)
    assert elastic(conversion) == {"plain", "fc3"}
    assert message in reasons(conversion).get("fc1", "")


def test_a_layer_that_runs_twice_is_narrowed_for_both() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(8, 16)
            self.second = nn.Linear(16, 16)
            self.last = nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.second(self.second(self.first(x)).relu()))  # type: ignore[no-any-return]

    model = Twice()
    conversion = convert(model, EXAMPLE)
    (width,) = conversion.report.widths
    assert set(width.layers) == {"first", "second", "last"}
    spec = conversion.space.smallest()
    conversion.actuate(spec)
    torch.testing.assert_close(model(EXAMPLE), conversion.extract(spec)(EXAMPLE), rtol=0, atol=1e-6)
