"""Adapters: what the tracer is told about layers that it cannot see through.

Some layers hold several projections in one matrix, or compute sizes in their Python code from attributes. For such a
layer an adapter says what its units are and which parameters and attributes follow them; the layer's own ``forward``
is what runs, narrowed or not.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import nn

from superserve.supernet.conversion.groups import Member

Predicate = Callable[[nn.Module], bool]


@dataclass(frozen=True)
class Adaptation:
    """How one module can be made narrower; module names are relative to it.

    Example: the heads of a fused attention: ``units`` is the number of heads; members are the output dimension of
    ``qkv`` (``copies=3``: the leading heads of each third) and the input dimension of ``proj`` (role ``"in"``);
    attributes are those that its forward computes shapes from.
    """

    units: int
    members: tuple[Member, ...]
    """Parameter dimensions that follow. Those with ``copies`` above 1 must belong to an `nn.Linear`'s outputs."""
    attributes: Mapping[str, int] = field(default_factory=dict)
    """Attributes of the module that follow, with their full values; multiples of ``units``."""


Adapter = Callable[[nn.Module], Adaptation | None]
"""Describes a module; None if this very module cannot be narrowed."""

_ADAPTERS: list[tuple[Predicate, Adapter]] = []


def register_adapter(predicate: Predicate, adapter: Adapter) -> None:
    """Use an adapter for the modules that a predicate accepts; the latest registered one that accepts wins."""
    _ADAPTERS.insert(0, (predicate, adapter))


def adaptation_of(module: nn.Module) -> Adaptation | None:
    """What the registered adapters say about a module; None if none does."""
    for predicate, adapter in _ADAPTERS:
        if predicate(module):
            return adapter(module)
    return None


def linear_members(module: nn.Module, name: str, dim: int, copies: int = 1) -> tuple[Member, ...]:
    """The members of one dimension of a linear layer: 0 are its outputs (with the bias), 1 its inputs.

    Args:
        module: the adapted module.
        name: of the linear layer in it.
        dim: of the weight.
        copies: see `Member`.
    """
    linear = module.get_submodule(name)
    assert isinstance(linear, nn.Linear)
    weight = Member(name, "weight", dim, linear.weight.shape[dim], "in" if dim else "out", copies)
    # torch's stub calls the bias a Tensor; without one it is None.
    if dim or getattr(linear, "bias", None) is None:
        return (weight,)
    return weight, Member(name, "bias", 0, linear.bias.shape[0], "out", copies)


def _is_timm_attention(module: nn.Module) -> bool:
    kind = type(module)
    return kind.__module__.startswith("timm.") and kind.__name__ == "Attention" and hasattr(module, "qkv")


def _timm_attention(module: nn.Module) -> Adaptation | None:
    """The fused qkv attention of timm's vision transformers."""
    heads, width = getattr(module, "num_heads", 0), getattr(module, "head_dim", 0)
    plain_norm = isinstance(getattr(module, "norm", nn.Identity()), nn.Identity)
    if not isinstance(module.qkv, nn.Linear) or module.qkv.out_features != 3 * heads * width or not plain_norm:
        return None
    members = linear_members(module, "qkv", 0, copies=3) + linear_members(module, "proj", 1)
    if getattr(module, "gate", None) is not None:
        members += linear_members(module, "gate", 0)
    attributes = {"num_heads": heads}
    # Older releases reshape to the width of the input instead, which does not shrink: those are found out by running.
    if hasattr(module, "attn_dim"):
        attributes["attn_dim"] = heads * width
    return Adaptation(heads, members, attributes)


register_adapter(_is_timm_attention, _timm_attention)
