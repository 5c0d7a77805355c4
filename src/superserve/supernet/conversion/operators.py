"""Operators for modules whose own ``forward`` must go on running: found in people's models, not built by us.

Each is a subclass of the module's class, made once per class and given to the module in place. Its ``forward`` is the
original's; what the original reads from itself (weights, statistics, counts) it finds in the slot. So a layer that
pads its input, or applies its activation, or an attention that reshapes by its number of heads, does the same when
it is narrower. Without a content of the slot it runs at full size.
"""

import functools
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from superserve.supernet.operators import (
    HalfStatistics,
    KeepSet,
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


def _adopt(module: nn.Module, mixin: type, names: tuple[str, ...]) -> None:
    module.__class__ = _subclass(type(module), mixin, names)
    module.slot = Slot()  # type: ignore[assignment]  # a plain attribute, as in the operators' constructors


class _Original:
    """Part of every class made here: how to get back a module of the original class."""

    original_class: type[nn.Module]

    def _restored(self: Any) -> nn.Module:
        """A module of the original class with the same parts; its dictionaries are its own."""
        plain: nn.Module = object.__new__(self.original_class)
        plain.__dict__ = {
            key: value.copy() if isinstance(value, dict) else value
            for key, value in self.__dict__.items()
            if key != "slot"
        }
        return plain


class ViewedLayer(_Original, WeightSlice[Content]):
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
        plain: nn.Module = self._restored()
        for name, value in self.bind(outputs, inputs).items():
            if isinstance(value, Tensor):
                plain._parameters[name] = owned(value)  # noqa: SLF001 (as torch's own setters do)
            elif name in plain.__dict__:
                plain.__dict__[name] = value
        for name in _SIZES:
            if name in plain.__dict__:
                plain.__dict__[name] = outputs
        for name in _INPUT_SIZES:
            if name in plain.__dict__:
                plain.__dict__[name] = inputs
        return plain


class ViewedNorm(_Original, NormSlice[Content]):
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
        plain: nn.Module = self._restored()
        content = self.bind(channels, None)
        for name in ("weight", "bias"):
            if content[name] is not None:
                plain._parameters[name] = owned(content[name])  # noqa: SLF001
        mean, variance = statistics.single()
        plain._buffers["running_mean"], plain._buffers["running_var"] = owned(mean).data, owned(variance).data  # noqa: SLF001
        plain.__dict__["num_features"] = channels
        return plain


class FusedLinear(nn.Linear, WeightSlice[SlicedWeight | tuple[SlicedWeight, ...]]):
    """WeightSlice for a linear layer that holds several projections one after the other, each of which is narrowed.

    The kept rows are not next to each other, so a narrowed one runs as one product per projection, on views.
    """

    superserve_copies: int

    def bind(self, outputs: int, inputs: int) -> SlicedWeight | tuple[SlicedWeight, ...]:
        """Views of the leading rows of each projection; of the whole matrix at full size."""
        bias: Tensor | None = self.bias
        if outputs == self.out_features:
            return SlicedWeight(self.weight[:, :inputs], bias)
        full, part = self.out_features // self.superserve_copies, outputs // self.superserve_copies
        starts = range(0, self.out_features, full)
        return tuple(
            SlicedWeight(self.weight[at : at + part, :inputs], None if bias is None else bias[at : at + part])
            for at in starts
        )

    def extract(self, outputs: int, inputs: int) -> nn.Linear:
        """See `WeightSlice.extract`."""
        rows = self.out_features // self.superserve_copies
        part = outputs // self.superserve_copies
        plain = nn.Linear(inputs, outputs, bias=self.bias is not None, device="meta")
        plain.weight = owned(
            self.weight.view(self.superserve_copies, rows, -1)[:, :part, :inputs].reshape(outputs, inputs)
        )
        if self.bias is not None:
            plain.bias = owned(self.bias.view(self.superserve_copies, rows)[:, :part].reshape(outputs))
        return plain

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs)."""
        content = self.slot.value
        if isinstance(content, SlicedWeight):
            return functional.linear(x, *content)
        return torch.cat([functional.linear(x, weight, bias) for weight, bias in content], dim=-1)


class Counter(_Original, WeightSlice[Content]):
    """A module whose forward computes shapes from attributes that count units: an attention's number of heads."""

    superserve_counts: Mapping[str, int]

    def bind(self, outputs: int, inputs: int) -> Content:
        """The attributes for ``outputs`` of ``inputs`` units."""
        return {name: full * outputs // inputs for name, full in self.superserve_counts.items()}

    def extract(self, outputs: int, inputs: int) -> nn.Module:
        """The module itself with the attributes set; made of the operator's own parts, not of copies."""
        plain = self._restored()
        plain.__dict__.update(self.bind(outputs, inputs))
        del plain.__dict__["superserve_counts"]
        return plain


class SwitchedBlock(_Original, KeepSet[bool]):
    """A residual block that passes its input on when it is not kept."""

    superserve_stream: tuple[str | None, int]
    superserve_alone: bool

    def bind(self, keep: tuple[int, ...]) -> bool:
        """Whether it runs."""
        return bool(keep)

    def extract(self, keep: tuple[int, ...]) -> nn.Module:
        """The block as it was, or what takes its place: an `nn.Identity`, unless it is called with more arguments."""
        if keep:
            plain = self._restored()
            del plain.__dict__["superserve_stream"], plain.__dict__["superserve_alone"]
            return plain
        return nn.Identity() if self.superserve_alone else PassThrough(*self.superserve_stream)


def _switched_forward(kind: type[nn.Module]) -> Any:  # noqa: ANN401 (any forward)
    @functools.wraps(kind.forward)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        if getattr(self.slot, "value", True):
            return kind.forward(self, *args, **kwargs)
        return passed_on(self.superserve_stream, args, kwargs)

    return forward


def passed_on(stream: tuple[str | None, int], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:  # noqa: ANN401
    """A block's input in the form of its output; ``stream`` has the argument's name and the tuple's length."""
    keyword, answers = stream
    x = kwargs[keyword] if keyword is not None and keyword in kwargs else args[0]
    return (x, *[None] * (answers - 1)) if answers else x


class PassThrough(nn.Module):
    """Takes the place of a dropped block that is called with more than one argument, or answers with a tuple.

    Args:
        keyword: name of the argument that holds the input; None if it is the first.
        answers: length of the tuple that is due, the rest None; 0 for the input alone.
    """

    def __init__(self, keyword: str | None, answers: int) -> None:
        super().__init__()
        self.stream = (keyword, answers)

    def forward(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Give back the input."""
        return passed_on(self.stream, args, kwargs)


#: `SwitchedBlock` with the forward of each class.
_SWITCHES: dict[type[nn.Module], type] = {}


def adopt_layer(module: nn.Module) -> None:
    """Make a layer with a forward of its own a WeightSlice, in place."""
    names = [name for name in ("weight", "bias") if name in module._parameters]  # noqa: SLF001
    counts = [name for name in ("groups", "num_groups", "num_channels", "num_features") if name in module.__dict__]
    _adopt(module, ViewedLayer, (*names, *counts))


def adopt_norm(module: _BatchNorm) -> None:
    """Make a batch normalisation with a forward of its own a SubnetNorm, in place."""
    _adopt(module, ViewedNorm, ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"))


def adopt_fused(module: nn.Linear, copies: int) -> None:
    """Make a linear layer that holds several projections elastic, in place."""
    module.__class__ = FusedLinear
    module.slot = Slot()  # type: ignore[assignment]
    module.superserve_copies = copies  # type: ignore[assignment]


def adopt_counter(module: nn.Module, counts: Mapping[str, int]) -> None:
    """Make attributes of a module follow its units, in place."""
    _adopt(module, Counter, tuple(counts))
    module.superserve_counts = dict(counts)  # type: ignore[assignment]


def adopt_block(module: nn.Module, keyword: str | None, *, answers: int, alone: bool) -> None:
    """Make a residual block one that can be skipped, in place."""
    kind = type(module)
    if kind not in _SWITCHES:
        _SWITCHES[kind] = type("SwitchedBlock", (SwitchedBlock,), {"forward": _switched_forward(kind)})
    _adopt(module, _SWITCHES[kind], ())
    module.superserve_stream = (keyword, answers)  # type: ignore[assignment]
    module.superserve_alone = alone  # type: ignore[assignment]
