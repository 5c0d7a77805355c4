"""Rules for functions and modules that own parameters: where channels are made and used."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from torch import nn

from superserve.errors import ConversionError
from superserve.supernet.conversion.adaptations import Concatenation, Projection
from superserve.supernet.conversion.groups import Follower, Group, Join, Member, union
from superserve.supernet.conversion.operand import Call, Dims, Operand, index
from superserve.supernet.conversion.sizes import input_member, layer_sizes, output_members


@dataclass
class Layers:
    """The layers that a trace met, with the groups of what they make and take."""

    outputs: dict[str, Group] = field(default_factory=dict)
    inputs: dict[str, Group | None] = field(default_factory=dict)
    norms: set[str] = field(default_factory=set)
    """Batch normalisations with running statistics."""


LayerRule = Callable[[Layers, Call], Dims]

LAYER_RULES: Final[dict[str, LayerRule]] = {}


def _rule(*names: str) -> Callable[[LayerRule], LayerRule]:
    def decorate(function: LayerRule) -> LayerRule:
        LAYER_RULES.update(dict.fromkeys(names, function))
        return function

    return decorate


def _own(call: Call, operand: Operand | None, name: str) -> str | None:
    """The module of a parameter, if this call stands in the module's own forward and the name is as expected."""
    if operand is None or operand.owner != (call.where, name):
        return None
    operand.claimed = True
    return call.where


def _takes(layers: Layers, module: str, x: Group | None, member: Member) -> None:
    """Tie what comes in to the layer's input dimension."""
    if module in layers.inputs:
        before = layers.inputs[module]
        if before is not None and x is not None:
            union(before, x)
        for group in (before, x):
            if group is not None and None in {before, x}:
                group.fix(f"{module} is called with several inputs, not all of which can be narrowed")
    layers.inputs[module] = x
    if x is not None:
        x.add(member)


def _makes(layers: Layers, call: Call, module: str, size: int, role_bias: Operand | None) -> Group:
    """The group of a layer's output channels."""
    if module not in layers.outputs:
        layers.outputs[module] = Group(size, fixed="there is a single channel" if size == 1 else None)
    group = layers.outputs[module].find()
    group.add(Member(module, "weight", 0, size, "out"))
    if role_bias is not None:
        if _own(call, role_bias, "bias") is None:
            group.fix(f"{module} computes its bias")
        else:
            group.add(Member(module, "bias", 0, size, "out"))
    return group


@_rule("linear")
def _linear(layers: Layers, call: Call) -> Dims:
    x, weight, bias = call.operand(0, "input"), call.operand(1, "weight"), call.operand(2, "bias")
    assert x is not None
    assert weight is not None
    module = _own(call, weight, "weight")
    if module is None:
        x.fix(f"{call.place} computes its weights, or uses another layer's")
        return [*x.dims[:-1], None]
    _takes(layers, module, x.dims[-1], Member(module, "weight", 1, weight.shape[1], "in"))
    return [*x.dims[:-1], _makes(layers, call, module, weight.shape[0], bias)]


@_rule("conv1d", "conv2d", "conv3d")
def _convolution(layers: Layers, call: Call) -> Dims:
    x, weight, bias = call.operand(0, "input"), call.operand(1, "weight"), call.operand(2, "bias")
    assert x is not None
    assert weight is not None
    channels = len(x.shape) - len(weight.shape) + 1
    spatial = range(channels + 1, len(x.shape))
    x.fix(f"{call.name} in {call.place} runs along it", spatial)
    module = _own(call, weight, "weight")
    lead, tail = x.dims[:channels], [None] * len(spatial)
    if module is None:
        x.fix(f"{call.place} computes its weights, or uses another layer's")
        return [*lead, None, *tail]
    groups = int(call.argument(6, "groups", 1))
    incoming = x.dims[channels]
    if groups == 1:
        _takes(layers, module, incoming, Member(module, "weight", 1, weight.shape[1], "in"))
        return [*lead, _makes(layers, call, module, weight.shape[0], bias), *tail]
    outgoing = _makes(layers, call, module, weight.shape[0], bias)
    return [*lead, _grouped(layers, module, incoming, outgoing, groups), *tail]


def _grouped(layers: Layers, module: str, incoming: Group | None, outgoing: Group, groups: int) -> Group:
    """A grouped convolution keeps or drops whole groups: its input and output are narrowed together."""
    layers.inputs[module] = incoming
    if incoming is None:
        outgoing.fix(f"the input of {module}, a grouped convolution, cannot be narrowed")
        return outgoing
    # Each output depends on its own group alone: to the group as a whole the layer is a pass-through.
    root = outgoing.find()
    root.members = [
        Member(m.module, m.parameter, m.dim, m.size, "through") if m.module == module else m for m in root.members
    ]
    tied = union(incoming, root)
    tied.divide(groups)
    follower = Follower(module, "groups", groups)
    if follower not in tied.followers:
        tied.followers.append(follower)
    return tied


def _through(call: Call, group: Group, operands: dict[str, Operand | None]) -> bool:
    """Tie the parameters of a layer that treats each channel alone; False if they are not its own."""
    known = True
    for name, operand in operands.items():
        if operand is None:
            continue
        if _own(call, operand, name) is None:
            known = False
        elif operand.shape[0] > 1:
            group.add(Member(call.where, name, 0, operand.shape[0], "through"))
    return known


@_rule("batch_norm")
def _batch_norm(layers: Layers, call: Call) -> Dims:
    x = call.operand(0, "input")
    assert x is not None
    names = ("running_mean", "running_var", "weight", "bias")
    operands = {name: call.operand(place + 1, name) for place, name in enumerate(names)}
    group = x.dims[1] or Group(x.shape[1])
    if not _through(call, group, operands):
        group.fix(f"{call.place} normalises with tensors that are not its own")
    elif operands["running_mean"] is None or call.argument(5, "training", False):  # noqa: FBT003 (a default)
        group.fix(f"{call.place} keeps no running statistics")
    else:
        layers.norms.add(call.where)
    return list(x.dims)


@_rule("instance_norm", "prelu")
def _each_channel(_layers: Layers, call: Call) -> Dims:
    x = call.first
    names = ("running_mean", "running_var", "weight", "bias") if call.name == "instance_norm" else ("weight",)
    operands = {name: call.operand(place + 1, name) for place, name in enumerate(names)}
    group = x.dims[1] if len(x.dims) > 1 else None
    x.fix(f"{call.name} in {call.place} runs along it", range(2, len(x.dims)))
    if group is not None and (not _through(call, group, operands) or operands.get("running_mean") is not None):
        group.fix(f"{call.place} keeps statistics, or parameters that are not its own")
    return list(x.dims)


@_rule("layer_norm", "rms_norm")
def _layer_norm(_layers: Layers, call: Call) -> Dims:
    x = call.first
    for operand in call.operands[1:]:
        operand.claimed = True
    spanned = range(len(x.dims) - len(call.argument(1, "normalized_shape")), len(x.dims))
    x.fix(f"{call.place} normalises over its whole width", spanned)
    return list(x.dims)


@_rule("group_norm")
def _group_norm(_layers: Layers, call: Call) -> Dims:
    x = call.first
    count = int(call.argument(1, "num_groups"))
    x.fix(f"group_norm in {call.place} runs along it", range(2, len(x.dims)))
    group = x.dims[1]
    if group is not None:
        group.divide(count)
        if not _through(call, group, {"weight": call.operand(2, "weight"), "bias": call.operand(3, "bias")}):
            group.fix(f"{call.place} normalises with parameters that are not its own")
        follower = Follower(call.where, "num_groups", count)
        if follower not in group.find().followers:
            group.find().followers.append(follower)
    return list(x.dims)


@_rule("embedding")
def _embedding(_layers: Layers, call: Call) -> Dims:
    """Embeddings keep their width: it is the width of the stream that they start."""
    for operand in call.operands:
        operand.claimed = True
    return [None] * len(call.shape)


def projected(layers: Layers, call: Call, module: nn.Module, said: Projection) -> Dims:
    """The groups of a projection's output; ``call`` is that of the module.

    Raises:
        ConversionError: if the module has not done what its adapter says.
    """
    name, x = call.where, call.first
    outputs, inputs, _ = layer_sizes(module, said)
    if (x.shape[-1:], call.shape) != ((inputs,), (*x.shape[:-1], outputs)):
        raise ConversionError(
            f"the adapter of {name} says that it maps a last dimension of {inputs} to {outputs}, but it made "
            f"{call.shape} of {x.shape}"
        )
    _takes(layers, name, x.dims[-1], input_member(name, module, said))
    group = layers.outputs.setdefault(name, Group(outputs)).find()
    for member in output_members(name, module, said):
        group.add(member)
    return [*x.dims[:-1], group]


def joined(name: str, said: Concatenation, sizes: Mapping[str, tuple[int, ...]], shape: tuple[int, ...]) -> Join:
    """What a module has concatenated, from the shapes of its parts' outputs and of its own.

    Raises:
        ConversionError: if the module has not done what its adapter says.
    """
    dim = index(said.dim, len(shape))
    parts: dict[str, int] = {}
    for part in (f"{name}.{part}" if name else part for part in said.parts):
        own = sizes.get(part)
        if own is None or (*own[:dim], *own[dim + 1 :]) != (*shape[:dim], *shape[dim + 1 :]):
            raise ConversionError(
                f"the adapter of {name} says that it joins what {part} answers along dimension {dim}, but that is "
                f"{own or 'no tensor'}, and the whole is {shape}"
            )
        parts[part] = own[dim]
    if sum(parts.values()) > shape[dim]:
        raise ConversionError(
            f"the adapter of {name} says that it joins its parts along dimension {dim}, but they are "
            f"{sum(parts.values())} there together, and the whole is {shape}"
        )
    return Join(Group(shape[dim]), dim, shape[dim], parts)
