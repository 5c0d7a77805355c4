"""From a trace to a plan: which groups can be made narrower with the operators at hand, and why the others cannot."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from superserve.supernet.conversion.blocks import choose_blocks, make_stages
from superserve.supernet.conversion.groups import Follower, Group, Member
from superserve.supernet.conversion.operators import original
from superserve.supernet.conversion.options import Options
from superserve.supernet.conversion.plan import (
    CounterPlan,
    GroupPlan,
    Kind,
    LayerPlan,
    NormPlan,
    Plan,
    StagePlan,
    choices,
)
from superserve.supernet.conversion.tracer import Candidate, Trace

#: Names that our operators need for themselves.
_NEEDED = ("slot", "bind", "extract")


@dataclass(frozen=True)
class Fixed:
    """Something that stays as it is."""

    name: str
    what: str
    reason: str


@dataclass
class Findings:
    """What a trace says can be elastic, before it has been tried."""

    groups: dict[str, Group]
    """Elastic groups by name."""
    blocks: list[Candidate]
    fixed: list[Fixed] = field(default_factory=list)

    def drop_group(self, name: str, reason: str) -> None:
        """Leave a group at full width."""
        self.fixed.append(Fixed(name, size_in_words(self.groups.pop(name)), reason))

    def drop_block(self, block: Candidate, reason: str) -> None:
        """Always run a block."""
        self.blocks.remove(block)
        self.fixed.append(Fixed(block.module, "block", reason))


def find(model: nn.Module, found: Trace, options: Options) -> Findings:
    """Collect the elastic groups and the skippable blocks of a traced model."""
    named = _named_groups(found)
    _fix_conflicts(model, found, list(named.values()))
    findings = Findings({}, [])
    for name, group in named.items():
        reason = _obstacle(model, group, options)
        if reason is None:
            findings.groups[name] = group
        else:
            findings.fixed.append(Fixed(name, size_in_words(group), reason))
    for block in choose_blocks(found):
        findings.blocks.append(block)
        blocked = _class_obstacle(model, block.module)
        if block.module in {f.module for group in findings.groups.values() for f in group.followers}:
            blocked = "it is an attention whose heads are elastic"
        if blocked is not None:
            findings.drop_block(block, blocked)
    return findings


def size_in_words(group: Group) -> str:
    """The size of a group, as reports give it."""
    size = max((member.size // member.copies for member in group.members), default=group.units)
    return f"{size} channels"


def _named_groups(found: Trace) -> dict[str, Group]:
    """Every group that some layer produces, by the first such layer, in the order of the forward."""
    named: dict[str, Group] = {}
    seen: set[int] = set()
    for module, adaptation in found.adapted.items():
        followers = [Follower(module, name, value) for name, value in adaptation.attributes.items()]
        group = Group(adaptation.units, followers=followers, split=True)
        for m in adaptation.members:
            group.add(Member(f"{module}.{m.module}", m.parameter, m.dim, m.size, m.role, m.copies))
        found.layers.outputs[module] = group
    order = {name: place for place, (name, _) in reversed(list(enumerate(found.calls)))}
    for module, group in sorted(found.layers.outputs.items(), key=lambda item: order.get(item[0], 0)):
        root = group.find()
        if id(root) not in seen:
            seen.add(id(root))
            named[module] = root
    return named


def _fix_conflicts(model: nn.Module, found: Trace, groups: Sequence[Group]) -> None:
    """Fix groups of parameters that are used, shared or claimed in a way that slicing would miss."""
    places = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    claims = Counter((m.module, m.parameter, m.dim) for group in groups for m in group.members)
    for group in groups:
        for m in group.members:
            foreign = next((why for owner, why in found.foreign.items() if owner == (m.module, m.parameter)), None)
            if foreign is not None:
                group.fix(f"{m.module}.{m.parameter} is not only used by its own layer: {foreign}")
            if places[id(model.get_submodule(m.module))] > 1:
                group.fix(f"{m.module} stands in the model under several names")
            if claims[m.module, m.parameter, m.dim] > 1:
                group.fix(f"{m.module} is called with several inputs that are narrowed apart")


def _obstacle(model: nn.Module, group: Group, options: Options) -> str | None:
    """Why a group stays at full width; None if it can be narrowed."""
    if group.fixed is not None:
        return group.fixed
    if group.stream and not options.streams:
        return "it is a residual stream: `streams=True` makes those elastic"
    if not any(m.role == "in" for m in group.members):
        return "no layer that could be sliced takes it as its input"
    if len(choices(group.units, options.width_ratios, options.divisor)) < 2:
        return f"{group.units} units leave no choice of width"
    for name in dict.fromkeys([*(m.module for m in group.members), *(f.module for f in group.followers)]):
        reason = _class_obstacle(model, name)
        if reason is not None:
            return f"{name}: {reason}"
    return _copies_obstacle(model, group)


def _copies_obstacle(model: nn.Module, group: Group) -> str | None:
    for m in group.members:
        if m.copies > 1 and (type(model.get_submodule(m.module)) is not nn.Linear or m.dim != 0):
            return f"{m.module}: several projections in one layer need an nn.Linear"
    return None


def _class_obstacle(model: nn.Module, name: str) -> str | None:
    """Why a module's class cannot be swapped."""
    module = model.get_submodule(name)
    if not name:
        return "it is the model itself"
    if isinstance(module, torch.jit.ScriptModule):
        return "it is TorchScript"
    if "forward" in module.__dict__:
        return "its forward was replaced"
    taken = [word for word in _NEEDED if hasattr(module, word)]
    return f"it has an attribute {taken[0]!r} of its own" if taken else None


def make_plan(model: nn.Module, found: Trace, findings: Findings, options: Options) -> Plan:
    """The plan for what is left in the findings."""
    stages = make_stages(model, found, findings.blocks, depth_ratios=options.depth_ratios, rule=options.depth_rule)
    groups = list(findings.groups.values())
    plans = tuple(_group_plan(model, name, group, stages, options) for name, group in findings.groups.items())
    layers = tuple(_layer_plans(model, groups))
    norms = []
    by_norm = {m.module: number for number, group in enumerate(groups) for m in group.members}
    for name in sorted(found.layers.norms):
        module = model.get_submodule(name)
        assert isinstance(module, _BatchNorm)
        norms.append(NormPlan(module=name, channels=module.num_features, group=by_norm.get(name)))
    counters = tuple(_counter_plans(groups))
    return Plan(groups=plans, layers=layers, norms=tuple(norms), counters=counters, stages=stages)


def _group_plan(model: nn.Module, name: str, group: Group, stages: Sequence[StagePlan], options: Options) -> GroupPlan:
    first = next(m.module for m in group.members if m.role == "out")
    kind: Kind = "neurons" if isinstance(model.get_submodule(first), nn.Linear) else "channels"
    kind = "heads" if group.split else kind
    modules = [*(m.module for m in group.members), *(f.module for f in group.followers)]
    place: tuple[int | None, int | None] = (None, None)
    for number, stage in enumerate(stages):
        for index, block in enumerate(stage.blocks):
            if all(module.startswith(f"{block.module}.") for module in modules):
                place = (number, index)
    return GroupPlan(
        name=name,
        kind=kind,
        units=group.units,
        choices=choices(group.units, options.width_ratios, 1 if group.split else options.divisor),
        stage=place[0],
        block=place[1],
    )


def _layer_plans(model: nn.Module, groups: Sequence[Group]) -> Iterator[LayerPlan]:
    dims: dict[str, dict[int, int]] = {}
    copies: dict[str, int] = {}
    for number, group in enumerate(groups):
        for m in group.members:
            if not isinstance(model.get_submodule(m.module), _BatchNorm) and m.parameter == "weight":
                dims.setdefault(m.module, {})[m.dim] = number
                copies[m.module] = max(copies.get(m.module, 1), m.copies)
    for name, by_dim in dims.items():
        module = model.get_submodule(name)
        outputs, inputs, tied = layer_sizes(module)
        out_group = by_dim.get(0)
        in_group = out_group if tied else by_dim.get(1)
        yield LayerPlan(
            module=name, outputs=outputs, inputs=inputs, out_group=out_group, in_group=in_group, copies=copies[name]
        )


def layer_sizes(module: nn.Module) -> tuple[int, int, bool]:
    """A layer's outputs and inputs, and whether they are narrowed together."""
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features, False
    if isinstance(module, nn.modules.conv._ConvNd):  # noqa: SLF001 (the only common base)
        return module.out_channels, module.in_channels, bool(original(module, "groups") > 1)
    size = original(module, "weight").shape[0]
    return size, size, True


def guess_followers(model: nn.Module, found: Trace, group: Group) -> list[list[Follower]]:
    """Attributes that may have to follow a group because a forward reshapes by them, most likely sets first.

    Whole numbers of the modules that reshaped the group, as large as the group's dimension was afterwards: numbers
    of heads and products of it. Only running it tells which are meant.
    """
    likely = []
    for reshaped, module, size in found.reshapes:
        if reshaped.find() is group and module:
            numbers = model.get_submodule(module).__dict__.items()
            same = [name for name, value in numbers if type(value) is int and value == size and size % group.units == 0]
            likely += [Follower(module, name, size) for name in same]
    likely = list(dict.fromkeys(likely))
    sets = [likely, *([follower] for follower in likely)] if len(likely) > 1 else [likely]
    return [[*group.followers, *chosen] for chosen in sets if chosen]


def _counter_plans(groups: Sequence[Group]) -> Iterator[CounterPlan]:
    """Attributes that follow, except those of layers, which their operators take care of."""
    layers = {m.module for group in groups for m in group.members}
    for number, group in enumerate(groups):
        attributes: dict[str, dict[str, int]] = {}
        for follower in group.followers:
            if follower.module not in layers:
                attributes.setdefault(follower.module, {})[follower.attribute] = follower.value
        for module, counts in attributes.items():
            yield CounterPlan(module=module, group=number, attributes=counts)
