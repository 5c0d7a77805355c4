"""Turn plain torch layers into operators where they stand."""

from collections.abc import Mapping
from typing import Final

from torch import nn

from superserve.errors import ConfigError
from superserve.supernet.operators.conv import SlicedConv2d
from superserve.supernet.operators.linear import SlicedEmbedding, SlicedLayerNorm, SlicedLinear
from superserve.supernet.operators.norm import SubnetNorm, SubnetNorm1d
from superserve.supernet.operators.select import LayerSelect
from superserve.supernet.operators.slot import Slot

OPERATORS: Final[Mapping[type[nn.Module], type[nn.Module]]] = {
    nn.Conv2d: SlicedConv2d,
    nn.Linear: SlicedLinear,
    nn.Embedding: SlicedEmbedding,
    nn.LayerNorm: SlicedLayerNorm,
    nn.BatchNorm1d: SubnetNorm1d,
    nn.BatchNorm2d: SubnetNorm,
    nn.Sequential: LayerSelect,
}
"""The operator of each torch class. Subclasses are not in it: what their own ``forward`` does would be lost."""


def adopt(module: nn.Module) -> None:
    """Make a plain torch layer an operator in place, by swapping its class.

    Parameters, buffers, ``state_dict`` keys, hooks and ``isinstance`` stay as they are; the operator must be actuated
    before its next forward, and at full size computes what the layer did bit for bit.

    Raises:
        ConfigError: if this layer cannot be one, saying why.
    """
    reason = obstacle(module)
    if reason is not None:
        raise ConfigError(f"{type(module).__name__} cannot be made elastic: {reason}")
    module.__class__ = OPERATORS[type(module)]
    if isinstance(module, SlicedConv2d):
        module.as_torch = True
    module.slot = Slot()  # type: ignore[assignment]  # a plain attribute, as in the operators' constructors


def obstacle(module: nn.Module) -> str | None:
    """Why `adopt` would refuse a layer; None if it would not."""
    if type(module) not in OPERATORS:
        return f"no operator for {type(module).__qualname__}"
    if any(getattr(module, name, None) is not None and name not in module._parameters for name in ("weight", "bias")):  # noqa: SLF001 (torch has no public way to tell a parameter from a computed attribute)
        return "its weight is computed by a hook or parametrisation"
    if isinstance(module, nn.Conv2d) and module.padding_mode != "zeros":
        return f"padding mode {module.padding_mode!r} is not 'zeros'"
    if isinstance(module, nn.LayerNorm) and len(module.normalized_shape) != 1:
        return f"it normalises over {len(module.normalized_shape)} dimensions, not the last one"
    if isinstance(module, nn.Embedding) and (module.max_norm is not None or module.sparse):
        return "it renormalises its rows (max_norm) or has sparse gradients"
    return None
