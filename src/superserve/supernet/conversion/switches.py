"""Blocks of people's models that can be left out, and what takes their place."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from superserve.supernet.conversion.arguments import tensors
from superserve.supernet.conversion.operators import Original, become
from superserve.supernet.conversion.plan import BlockPlan
from superserve.supernet.operators import KeepSet


@dataclass(frozen=True)
class Substitute:
    """What a block answers with when it is left out; see `BlockPlan` for the parts."""

    keyword: str | None
    answers: int
    joins: int | None

    def __call__(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:  # noqa: ANN401 (as the block does)
        """The block's input in the form of its output; nothing, in a tensor, if its output is joined to others."""
        if self.joins is not None:
            return next(tensors((args, kwargs))).narrow(self.joins, 0, 0)
        x = kwargs[self.keyword] if self.keyword is not None and self.keyword in kwargs else args[0]
        return (x, *[None] * (self.answers - 1)) if self.answers else x


class SwitchedBlock(Original, KeepSet[bool]):
    """A block that runs, or answers with its `Substitute`."""

    superserve_substitute: Substitute
    superserve_alone: bool

    def bind(self, keep: tuple[int, ...]) -> bool:
        """Whether it runs."""
        return bool(keep)

    def extract(self, keep: tuple[int, ...]) -> nn.Module:
        """The block as it was, or what takes its place: an `nn.Identity` where that does."""
        if keep:
            return self.restored()
        return nn.Identity() if self.superserve_alone else PassThrough(self.superserve_substitute)


def _switched_forward(kind: type[nn.Module]) -> Any:  # noqa: ANN401 (any forward)
    @functools.wraps(kind.forward)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        if getattr(self.slot, "value", True):
            return kind.forward(self, *args, **kwargs)
        return self.superserve_substitute(args, kwargs)

    return forward


class PassThrough(nn.Module):
    """Takes the place of a dropped block whose place an `nn.Identity` cannot take."""

    def __init__(self, substitute: Substitute) -> None:
        super().__init__()
        self.substitute = substitute

    def forward(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Answer for the block."""
        return self.substitute(args, kwargs)


#: `SwitchedBlock` with the forward of each class.
_SWITCHES: dict[type[nn.Module], type] = {}


def adopt_block(module: nn.Module, plan: BlockPlan) -> None:
    """Make a block one that can be left out, in place."""
    kind = type(module)
    if kind not in _SWITCHES:
        _SWITCHES[kind] = type("SwitchedBlock", (SwitchedBlock,), {"forward": _switched_forward(kind)})
    become(module, _SWITCHES[kind], ())
    module.superserve_substitute = Substitute(plan.keyword, plan.answers, plan.joins)  # type: ignore[assignment]
    module.superserve_alone = plan.alone and plan.joins is None  # type: ignore[assignment]
