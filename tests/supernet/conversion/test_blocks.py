"""Which modules are residual blocks, and how they form stages."""

import pytest
import torch
from torch import Tensor, nn

from superserve.supernet.conversion import Conversion, convert
from support.plain_models import randomised

EXAMPLE = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


class Plus(nn.Module):
    """Its input plus a small network of it, through whatever comes after."""

    def __init__(self, after: nn.Module | None = None) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
        self.after = after or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.after(x + self.down(torch.relu(self.up(x))))  # type: ignore[no-any-return]


class Rest(Plus):
    """Not residual: nothing of the input goes round."""

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.relu(self.up(x)))  # type: ignore[no-any-return]


class Doubled(Plus):
    def forward(self, x: Tensor) -> Tensor:
        return x + x


class Shifted(Plus):
    """A constant is no function of the input: leaving it out is not leaving out a block."""

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down.bias


class Scaled(Plus):
    """Half of the sum: without the block the input would have to be halved."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 0.5


class Normed(Plus):
    """The shortcut starts after the activation: without the block it would be missing."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.relu(x))


class Wider(Plus):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([super().forward(x), x], 1)


class Folded(Plus):
    """Adds in another shape, as windowed attention does."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.view(-1, 2, 4)
        y = y + self.down(torch.relu(self.up(x))).view(-1, 2, 4)
        return y.view(x.shape)  # type: ignore[no-any-return]


class Nested(nn.Module):
    """A layer whose first half is residual itself, as a post-norm transformer's attention is."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Plus(nn.LayerNorm(8))
        self.up, self.down, self.norm = nn.Linear(8, 16), nn.Linear(16, 8), nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return self.norm(y + self.down(torch.relu(self.up(y))))  # type: ignore[no-any-return]


def stages(model: nn.Module, **options: object) -> list[tuple[str, ...]]:
    found: Conversion = convert(randomised(model), EXAMPLE, **options)
    return [stage.blocks for stage in found.report.stages]


def test_a_row_of_blocks_is_a_stage() -> None:
    assert stages(nn.Sequential(nn.Linear(8, 8), nn.Sequential(Plus(), Plus(), Plus()), nn.Linear(8, 2))) == [
        ("1.0", "1.1", "1.2")
    ]


def test_rows_in_rows_are_taken_apart() -> None:
    body = nn.Sequential(nn.Sequential(Plus(), Plus()), nn.Sequential(Plus(), Plus()))
    assert stages(nn.Sequential(body, nn.Linear(8, 2))) == [("0.0.0", "0.0.1"), ("0.1.0", "0.1.1")]


class Stage(nn.Module):
    """Changes the shape before its row of blocks, except in the first stage: then it is residual itself."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.downsample, self.blocks = nn.Identity(), nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.downsample(x))  # type: ignore[no-any-return]


def test_what_holds_nothing_but_a_row_is_one() -> None:
    assert stages(nn.Sequential(Stage(Plus(), Plus()), nn.Linear(8, 2))) == [("0.blocks.0", "0.blocks.1")]
    assert stages(nn.Sequential(Stage(Nested()), nn.Linear(8, 2))) == [("0.blocks.0",)]


def test_a_block_with_a_residual_part_is_one_block() -> None:
    assert stages(nn.Sequential(Nested(), Nested(), nn.Linear(8, 2))) == [("0", "1")]


@pytest.mark.parametrize("after", [nn.ReLU(), nn.LayerNorm(8), nn.BatchNorm1d(8), nn.Dropout()])
def test_activation_and_norm_may_follow_the_sum(after: nn.Module) -> None:
    assert stages(nn.Sequential(Plus(after), nn.Linear(8, 2))) == [("0",)]


def test_views_in_between_are_no_obstacle() -> None:
    assert stages(nn.Sequential(Folded(), nn.Linear(8, 2))) == [("0",)]


@pytest.mark.parametrize("kind", [Rest, Doubled, Shifted, Scaled, Normed, Wider])
def test_what_is_not_its_input_plus_a_function_of_it_always_runs(kind: type[nn.Module]) -> None:
    width = 16 if kind is Wider else 8
    assert stages(nn.Sequential(nn.Linear(8, 8), kind(), nn.Linear(width, 16), nn.Linear(16, 2))) == []


def test_a_block_that_runs_twice_always_runs() -> None:
    class Again(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block, self.head = Plus(), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.block(self.block(x)))  # type: ignore[no-any-return]

    assert stages(Again()) == []


def test_the_block_before_a_row_leads_its_stage() -> None:
    """As the strided first block of a ResNet's stage: of the same class, called, but not residual here."""

    class Block(nn.Module):
        def __init__(self, inputs: int) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(inputs, 16), nn.Linear(16, 8)
            self.shortcut = nn.Linear(inputs, 8) if inputs != 8 else nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return self.shortcut(x) + self.down(torch.relu(self.up(x)))  # type: ignore[no-any-return]

    model = nn.Sequential(nn.Linear(8, 6), Block(6), Block(8), Block(8), nn.Linear(8, 2))
    conversion = convert(randomised(model), EXAMPLE)
    (stage,) = conversion.report.stages
    assert (stage.blocks, stage.depths) == (("1", "2", "3"), (2, 3))
    assert conversion.space.smallest().keep == ((0, 1),)


def test_a_single_block_may_go() -> None:
    model = nn.Sequential(nn.Linear(8, 8), Plus(), nn.Linear(8, 2))
    conversion = convert(randomised(model), EXAMPLE)
    assert conversion.space.smallest().keep == ((),)
    conversion.actuate(conversion.space.smallest())
    kept = nn.Sequential(*[conversion.extract(conversion.space.largest())[i] for i in (0, 2)])  # type: ignore[index]
    torch.testing.assert_close(model(EXAMPLE), kept(EXAMPLE), rtol=0, atol=1e-6)


def test_widths_inside_a_dropped_block_do_not_matter() -> None:
    model = nn.Sequential(Plus(), Plus(), nn.Linear(8, 2))
    conversion = convert(randomised(model), EXAMPLE)
    assert [(width.name, width.stage, width.block) for width in conversion.space.widths] == [
        ("0.up", 0, 0),
        ("1.up", 0, 1),
    ]
    assert conversion.space.smallest().widths == (("0.up", 0.5),)


def test_code_that_needs_a_block_keeps_it() -> None:
    """A model that looks at what a block leaves behind does not run without it: found out by running."""

    class Leaves(Plus):
        def forward(self, x: Tensor) -> Tensor:
            self.left = x.mean()
            return super().forward(x)

    class Looks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block, self.head = Leaves(), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.head(self.block(x)) + self.block.left
            del self.block.left
            return y  # type: ignore[no-any-return]

    conversion = convert(randomised(Looks()), EXAMPLE)
    assert conversion.report.stages == ()
    (reason,) = [part.reason for part in conversion.report.fixed if part.name == "block"]
    assert reason.startswith("the model does not run without it: AttributeError")
