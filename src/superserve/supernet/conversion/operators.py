"""Operators for modules whose own ``forward`` must go on running: found in people's models, not built by us.

Each is a subclass of the module's class, made once per class and given to the module in place. Its ``forward`` is the
original's; what the original reads from itself (weights, statistics, counts) it finds in the slot. So a layer that
pads its input, or applies its activation, or an attention that reshapes by its number of heads, does the same when
it is narrower. Without a content of the slot it runs at full size.
"""

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from superserve.supernet.conversion.adaptations import Projection
from superserve.supernet.operators import (
    HalfStatistics,
    NormSlice,
    NormStatistics,
    SlicedWeight,
    Slot,
    WeightSlice,
)
from superserve.supernet.operators.slot import owned

Content = Mapping[str, Any]
"""What a module shall find in place of its own attributes, by name."""

#: Attributes that only describe a layer: those that the extracted layer must have corrected.
_SIZES: Final = {"out_channels": 0, "out_features": 0, "num_features": 0, "num_channels": 0, "num_parameters": 0}
_INPUT_SIZES: Final = ("in_channels", "in_features")


#: What a batch normalisation calls the parts of a set of statistics.
_STATISTICS: Final = {"running_mean": "mean", "running_var": "variance"}

#: Classes made so far: two modules of one class stay of one class.
_CLASSES: dict[tuple[type, type, tuple[str, ...]], type[nn.Module]] = {}


def _from_slot(name: str) -> Any:  # noqa: ANN401 (a property of any type)
    def get(self: nn.Module) -> Any:  # noqa: ANN401
        content = getattr(self.slot, "value", None)
        if content is None or name not in content:
            return original(self, name)
        found = content[name]
        return getattr(found, _STATISTICS[name]) if isinstance(found, HalfStatistics) else found

    return property(get)


def original(module: nn.Module, name: str) -> Any:  # noqa: ANN401 (any attribute)
    """A module's own attribute, whatever its slot holds."""
    for place in (module._parameters, module._buffers, module.__dict__):  # noqa: SLF001 (below any property)
        if name in place:
            return place[name]
    raise AttributeError(f"{type(module).__name__} has no {name!r}")


def _subclass(kind: type[nn.Module], mixin: type, names: tuple[str, ...]) -> type[nn.Module]:
    """A class of the module's kind that finds some attributes in its slot; it keeps the name, as ``repr`` shows it."""
    known = _CLASSES.get((kind, mixin, names))
    if known is not None:
        return known
    content = {name: _from_slot(name) for name in names}
    named = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "original_class": kind}
    made = _CLASSES[kind, mixin, names] = type(kind.__name__, (mixin, kind), content | named)
    return made


def become(module: nn.Module, mixin: type, names: tuple[str, ...]) -> None:
    """Give a module, in place, a class that is its own and the mixin; it finds these attributes in its slot."""
    module.__class__ = _subclass(type(module), mixin, names)
    module.slot = Slot()  # type: ignore[assignment]  # a plain attribute, as in the operators' constructors


class Original:
    """Part of every class made here: how to get back a module of the original class."""

    original_class: type[nn.Module]

    def restored(self: Any) -> nn.Module:
        """A module of the original class with the same parts; its dictionaries are its own."""
        plain: nn.Module = object.__new__(self.original_class)
        plain.__dict__ = {
            key: value.copy() if isinstance(value, dict) else value
            for key, value in self.__dict__.items()
            if key != "slot" and not key.startswith("superserve_")
        }
        return plain


class ViewedLayer(Original, WeightSlice[Content]):
    """WeightSlice for a layer with a ``forward`` of its own: a subclass of a torch layer, or one of no operator."""

    def bind(self: Any, outputs: int, inputs: int) -> Content:
        """Views of the leading part of weight and bias, and the counts that go with them."""
        weight, bias = original(self, "weight"), original(self, "bias") if hasattr(self, "bias") else None
        content: dict[str, Any] = {"bias": None if bias is None else bias[:outputs]}
        groups = self.__dict__.get("groups", 1)
        if weight is None:
            content["weight"] = None
        elif weight.dim() < 2:
            content["weight"] = weight[:outputs] if len(weight) > 1 else weight
        elif groups == 1:
            content["weight"] = weight[:outputs, :inputs]
        else:
            content["weight"] = weight[:outputs]
            content["groups"] = groups * inputs // self.__dict__["in_channels"]
        if "num_groups" in self.__dict__:
            content["num_groups"] = self.__dict__["num_groups"] * outputs // self.__dict__["num_channels"]
        # Some layers compare their input with these.
        content |= {name: outputs for name in ("num_channels", "num_features") if name in self.__dict__}
        return content

    def extract(self: Any, outputs: int, inputs: int) -> nn.Module:
        """See `WeightSlice.extract`; of the original class."""
        plain = _with_content(self.restored(), self.bind(outputs, inputs))
        for name in _SIZES:
            if name in plain.__dict__:
                plain.__dict__[name] = outputs
        for name in _INPUT_SIZES:
            if name in plain.__dict__:
                plain.__dict__[name] = inputs
        return plain


class ViewedNorm(Original, NormSlice[Content]):
    """SubnetNorm for a batch normalisation with a ``forward`` of its own, such as one with its activation built in."""

    def bind(self, channels: int, statistics: NormStatistics | HalfStatistics | None) -> Content:
        """Views of the leading scales and shifts, and the subnet's statistics (None: those of the batch)."""
        content: dict[str, Any] = dict.fromkeys((*_STATISTICS, "num_batches_tracked"))
        for name in ("weight", "bias"):
            value = original(self, name)  # type: ignore[arg-type]
            content[name] = None if value is None else value[:channels]
        return content if statistics is None else self.with_statistics(content, statistics)

    def with_statistics(self, bound: Content, statistics: NormStatistics | HalfStatistics) -> Content:
        """See `NormSlice.with_statistics`; those in half precision are widened when the forward reads them."""
        if isinstance(statistics, HalfStatistics):
            return {**bound, **dict.fromkeys(_STATISTICS, statistics)}
        return {**bound, "running_mean": statistics.mean, "running_var": statistics.variance}

    def extract(self: Any, channels: int, statistics: NormStatistics | HalfStatistics) -> nn.Module:
        """See `NormSlice.extract`; of the original class."""
        plain: nn.Module = self.restored()
        content = self.bind(channels, None)
        for name in ("weight", "bias"):
            if content[name] is not None:
                plain._parameters[name] = owned(content[name])  # noqa: SLF001
        mean, variance = statistics.single()
        plain._buffers["running_mean"], plain._buffers["running_var"] = owned(mean).data, owned(variance).data  # noqa: SLF001
        plain.__dict__["num_features"] = channels
        return plain


class ViewedProjection(Original, WeightSlice[Content]):
    """WeightSlice for a layer that an adapter describes as a projection; its own ``forward`` runs on views."""

    superserve_projection: Projection

    def bind(self: Any, outputs: int, inputs: int) -> Content:
        """Views of the leading part of weight and bias, and the counts that go with them."""
        said: Projection = self.superserve_projection
        weight, bias = original(self, "weight"), original(self, "bias") if hasattr(self, "bias") else None
        content: dict[str, Any] = {
            "weight": weight[:inputs, :outputs] if said.transposed else weight[:outputs, :inputs],
            "bias": None if bias is None else bias[:outputs],
        }
        return content | dict.fromkeys(said.counts_outputs, outputs) | dict.fromkeys(said.counts_inputs, inputs)

    def extract(self: Any, outputs: int, inputs: int) -> nn.Module:
        """See `WeightSlice.extract`; of the original class."""
        return _with_content(self.restored(), self.bind(outputs, inputs))


class FusedProjection(Original, WeightSlice[tuple[SlicedWeight, ...] | None]):
    """WeightSlice for a layer that holds several projections one after the other, each of which is narrowed.

    The kept outputs are not next to each other, so a narrowed one runs as one product per projection, on views; a whole
    one runs its own ``forward``.
    """

    superserve_projection: Projection
    superserve_copies: int

    def bind(self: Any, outputs: int, inputs: int) -> tuple[SlicedWeight, ...] | None:
        """Views of the leading outputs of each projection, as (outputs, inputs); None for the whole layer."""
        weight, bias = self._whole()
        if (outputs, inputs) == tuple(weight.shape):
            return None
        full, part = len(weight) // self.superserve_copies, outputs // self.superserve_copies
        return tuple(
            SlicedWeight(weight[at : at + part, :inputs], None if bias is None else bias[at : at + part])
            for at in range(0, len(weight), full)
        )

    def extract(self: Any, outputs: int, inputs: int) -> nn.Module:
        """See `WeightSlice.extract`; of the original class."""
        said: Projection = self.superserve_projection
        parts = self.bind(outputs, inputs) or (SlicedWeight(*self._whole()),)
        weight = torch.cat([part.weight for part in parts])
        biases = [part.bias for part in parts if part.bias is not None]
        content: dict[str, Any] = {"weight": weight.t() if said.transposed else weight}
        content["bias"] = torch.cat(biases) if biases else None
        content |= dict.fromkeys(said.counts_outputs, outputs) | dict.fromkeys(said.counts_inputs, inputs)
        return _with_content(self.restored(), content)

    def forward(self: Any, x: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs)."""
        parts = getattr(self.slot, "value", None)
        if parts is None:
            whole: Tensor = self.original_class.forward(self, x)
            return whole
        return torch.cat([functional.linear(x, weight, bias) for weight, bias in parts], dim=-1)

    def _whole(self: Any) -> tuple[Tensor, Tensor | None]:
        return self.weight.t() if self.superserve_projection.transposed else self.weight, self.bias


def _with_content(plain: nn.Module, content: Content) -> nn.Module:
    """A restored module with weights of its own, and other attributes, in place of what it had."""
    for name, value in content.items():
        if isinstance(value, Tensor):
            plain._parameters[name] = owned(value)  # noqa: SLF001 (as torch's own setters do)
        elif name in plain.__dict__:
            plain.__dict__[name] = value
    return plain


class Counter(Original, WeightSlice[Content]):
    """A module whose forward computes shapes from attributes that count units: an attention's number of heads."""

    superserve_counts: Mapping[str, int]

    def bind(self, outputs: int, inputs: int) -> Content:
        """The attributes for ``outputs`` of ``inputs`` units."""
        return {name: full * outputs // inputs for name, full in self.superserve_counts.items()}

    def extract(self, outputs: int, inputs: int) -> nn.Module:
        """The module itself with the attributes set; made of the operator's own parts, not of copies."""
        plain = self.restored()
        plain.__dict__.update(self.bind(outputs, inputs))
        return plain


def adopt_layer(module: nn.Module) -> None:
    """Make a layer with a forward of its own a WeightSlice, in place."""
    names = [name for name in ("weight", "bias") if name in module._parameters]  # noqa: SLF001
    counts = [name for name in ("groups", "num_groups", "num_channels", "num_features") if name in module.__dict__]
    become(module, ViewedLayer, (*names, *counts))


def adopt_norm(module: _BatchNorm) -> None:
    """Make a batch normalisation with a forward of its own a SubnetNorm, in place."""
    become(module, ViewedNorm, ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"))


#: How torch's own linear layer would be described.
_TORCH_LINEAR: Final = Projection(counts_outputs=("out_features",), counts_inputs=("in_features",))


def adopt_projection(module: nn.Module, projection: Projection | None, copies: int) -> None:
    """Make a layer that is a projection, or several one after the other, elastic, in place.

    Args:
        module: the layer.
        projection: what an adapter says of it; None of an `nn.Linear`.
        copies: how many projections it holds.
    """
    said = projection or _TORCH_LINEAR
    if copies > 1:
        become(module, FusedProjection, ())
        module.superserve_copies = copies  # type: ignore[assignment]
    else:
        become(module, ViewedProjection, ("weight", "bias", *said.counts_outputs, *said.counts_inputs))
    module.superserve_projection = said  # type: ignore[assignment]


def adopt_counter(module: nn.Module, counts: Mapping[str, int]) -> None:
    """Make attributes of a module follow its units, in place."""
    become(module, Counter, tuple(counts))
    module.superserve_counts = dict(counts)  # type: ignore[assignment]
