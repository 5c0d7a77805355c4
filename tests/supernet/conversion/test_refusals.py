"""What cannot be converted: refused with the cause named, and the model left as it was."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from superserve.errors import ConversionError, UsageError
from superserve.supernet.conversion import convert
from superserve.supernet.network import ElasticNetwork
from support.plain_models import ResidualCnn, TinyTransformer, randomised


class Mlp(nn.Module):
    """Two hidden layers, with room for something in between."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(8, 32)
        self.fc2 = nn.Linear(32, 32)
        self.fc3 = nn.Linear(32, 4)

    def between(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.fc1(x))
        return self.fc3(torch.relu(self.fc2(self.between(x))))  # type: ignore[no-any-return]


class BranchesOnActivations(Mlp):
    def between(self, x: Tensor) -> Tensor:
        return self.fc2(x) if x.sum() > 0 else x


class BranchesOnInput(Mlp):
    def forward(self, x: Tensor) -> Tensor:
        if bool((x > 0).any()):
            return super().forward(x)
        return self.fc3(torch.relu(self.fc1(x)))  # type: ignore[no-any-return]


class ReadsValues(Mlp):
    def between(self, x: Tensor) -> Tensor:
        return x * float(x.max())


class CountsRows(Mlp):
    """Runs a layer once per positive row: no branch, but a number of calls that depends on data."""

    def forward(self, x: Tensor) -> Tensor:
        rows = [super(CountsRows, self).forward(row) for row in x[x[:, 0] > 0]]
        return torch.stack([*rows, torch.zeros(4)])


class Guards(Mlp):
    """Checks its input, and otherwise fails."""

    def between(self, x: Tensor) -> Tensor:
        if bool(torch.isnan(x).any()):
            raise ValueError("NaN")
        return x


class Random(Mlp):
    def between(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


class ReturnsNothing(Mlp):
    def forward(self, x: Tensor) -> Tensor:  # noqa: ARG002 (the answer is what is wrong)
        return None  # type: ignore[return-value]


class HasSpace(Mlp):
    space = "mine"


class MasksUnlessEmpty(Mlp):
    """Leaves out a mask that masks nothing, as attention code does: both ways run the same layers."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is not None and not bool(mask.all()):
            x = x * mask.unsqueeze(1)
        return super().forward(x)


EXAMPLE = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))

REFUSED: Mapping[str, tuple[nn.Module, object, str]] = {
    "branch on activations": (BranchesOnActivations(), EXAMPLE, "control flow depends on data .*x.sum.. > 0"),
    "branch on the input": (BranchesOnInput(), EXAMPLE, "control flow depends on data .*any.*other layers run"),
    "guard": (Guards(), EXAMPLE, "control flow depends on data .*isnan.*it fails: NaN"),
    "values read": (ReadsValues(), EXAMPLE, "values to Python .*float.*x.max"),
    "calls per row": (CountsRows(), torch.linspace(-1, 4, 48).view(6, 8), "when the example's values are shuffled"),
    "random": (Random(), EXAMPLE, "draws random numbers"),
    "no tensor": (ReturnsNothing(), EXAMPLE, "returns no tensor"),
    "own attribute": (HasSpace(), EXAMPLE, "attribute 'space'"),
    "wrong shape": (Mlp(), torch.randn(6, 7), "rejects the example input: RuntimeError"),
    "wrong number of inputs": (Mlp(), (EXAMPLE, EXAMPLE), "rejects the example input: TypeError"),
    "one linear layer": (nn.Sequential(nn.Linear(8, 4)), EXAMPLE, "nothing in the model can be made elastic: 0 "),
    "no layers": (nn.ReLU(), EXAMPLE, "nothing in the model can be made elastic: it has no layers"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_the_cause_and_left_alone(name: str) -> None:
    model, example, message = REFUSED[name]
    model.train()
    kinds = [type(module) for module in model.modules()]
    contents = [sorted(vars(module)) for module in model.modules()]
    with pytest.raises(ConversionError, match=message) as error:
        convert(model, example)  # type: ignore[arg-type]
    assert isinstance(error.value, UsageError)
    assert [type(module) for module in model.modules()] == kinds
    assert [sorted(vars(module)) for module in model.modules()] == contents
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_converting_twice_is_refused() -> None:
    model = randomised(ResidualCnn())
    example = torch.randn(2, 3, 16, 16)
    convert(model, example)
    with pytest.raises(ConversionError, match="converted already"):
        convert(model, example)
    assert isinstance(model, ElasticNetwork)


def test_a_branch_that_runs_the_same_layers_both_ways_is_noted() -> None:
    conversion = convert(MasksUnlessEmpty(), (EXAMPLE, torch.ones(6, dtype=torch.bool)))
    (note,) = [note for note in conversion.report.notes if "branches on data" in note]
    assert "mask.all()" in note
    assert note in str(conversion.report)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width_ratios": (0.5, 0.9)}, "width_ratios .* must rise strictly from above 0 to 1"),
        ({"depth_ratios": ()}, "depth_ratios"),
        ({"width_ratios": (0.0, 1.0)}, "width_ratios"),
        ({"divisor": 0}, "divisor 0 must be positive"),
        ({"widths": 3}, "'widths'; the options are width_ratios, "),
    ],
)
def test_options_that_cannot_be_used(options: Mapping[str, object], message: str) -> None:
    with pytest.raises(ConversionError, match=message):
        convert(Mlp(), EXAMPLE, **options)


def test_no_width_of_a_group_may_be_zero() -> None:
    """The least width keeps a unit, however small the ratio."""
    conversion = convert(TinyTransformer(), torch.zeros(2, 6, dtype=torch.long), width_ratios=(0.001, 1.0))
    assert all(min(width.kept) >= 1 for width in conversion.report.widths)
