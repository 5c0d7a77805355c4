"""What a layer's parameters say about its outputs and inputs."""

from collections.abc import Iterator
from typing import NamedTuple

from torch import nn

from superserve.supernet.conversion.adaptations import Projection
from superserve.supernet.conversion.groups import Member
from superserve.supernet.conversion.operators import original


class Sizes(NamedTuple):
    """A layer's full sizes."""

    outputs: int
    inputs: int
    tied: bool
    """Whether outputs and inputs are the same channels, which are narrowed together."""


def layer_sizes(module: nn.Module, projection: Projection | None = None) -> Sizes:
    """The sizes of a layer; ``projection`` is what an adapter says of it."""
    if projection is not None:
        rows, columns = original(module, "weight").shape
        return Sizes(columns, rows, tied=False) if projection.transposed else Sizes(rows, columns, tied=False)
    if isinstance(module, nn.Linear):
        return Sizes(module.out_features, module.in_features, tied=False)
    if isinstance(module, nn.modules.conv._ConvNd):  # noqa: SLF001 (the only common base)
        return Sizes(module.out_channels, module.in_channels, tied=bool(original(module, "groups") > 1))
    size = original(module, "weight").shape[0]
    return Sizes(size, size, tied=True)


def is_product(module: nn.Module, projection: Projection | None, copies: int) -> bool:
    """Whether a layer makes its outputs of all of its inputs, in a way that an operator knows.

    Args:
        module: the layer.
        projection: what an adapter says of it.
        copies: how many products its outputs consist of: convolutions, and subclasses with a forward of their own,
            are not taken apart.
    """
    if projection is not None or type(module) is nn.Linear:
        return True
    convolution = isinstance(module, nn.modules.conv._ConvNd) and not module.transposed and module.groups == 1  # noqa: SLF001
    return copies == 1 and (convolution or isinstance(module, nn.Linear))


def output_members(name: str, module: nn.Module, projection: Projection | None, copies: int = 1) -> Iterator[Member]:
    """The members of a group that a layer produces; see `Member` for ``copies``."""
    for parameter in ("weight", "bias"):
        # torch's stubs call the bias a Tensor; without one it is None.
        if getattr(module, parameter, None) is not None:
            yield Member(name, parameter, 0, layer_sizes(module, projection).outputs, "out", copies)


def input_member(name: str, module: nn.Module, projection: Projection | None) -> Member:
    """The member of a group that a layer reads."""
    return Member(name, "weight", 1, layer_sizes(module, projection).inputs, "in")
