"""What a trace says can be elastic, and what stands in the way of the rest."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from superserve.supernet.conversion.adaptations import Units
from superserve.supernet.conversion.blocks import choose_blocks
from superserve.supernet.conversion.groups import Follower, Group, Join
from superserve.supernet.conversion.options import Options
from superserve.supernet.conversion.plan import choices
from superserve.supernet.conversion.sizes import input_member, is_product, output_members
from superserve.supernet.conversion.trace import Candidate, Trace

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
    """Elastic groups by name; those of concatenations, too, whose blocks can then be left out."""
    blocks: list[Candidate]
    joins: dict[str, Join]
    """Concatenations by the names of their groups."""
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
    named = _named_groups(model, found)
    _fix_conflicts(model, found, list(named.values()))
    findings = Findings({}, [], found.joins)
    findings.fixed += [Fixed(name, what, reason) for name, (what, reason) in found.unknown.items()]
    for name, group in named.items():
        reason = _obstacle(model, group, options, found.joins.get(name))
        if reason is None:
            findings.groups[name] = group
        else:
            findings.fixed.append(Fixed(name, size_in_words(group), reason))
    groups = findings.groups.values()
    taken = {m.module for group in groups for m in group.members} | {f.module for g in groups for f in g.followers}
    for name in [name for name in findings.groups if name in found.joins]:
        part = next((part for part in found.joins[name].parts if part in taken), None)
        if part is not None:
            findings.drop_group(name, f"{part} is elastic itself, so that it cannot be left out")
    for block in choose_blocks(found):
        findings.blocks.append(block)
        blocked = _class_obstacle(model, block.module)
        if block.module in taken:
            blocked = "it is elastic itself, such as an attention whose heads are"
        if blocked is not None:
            findings.drop_block(block, blocked)
    return findings


def size_in_words(group: Group) -> str:
    """The size of a group, as reports give it."""
    size = max((member.size // member.copies for member in group.members), default=group.units)
    return f"{size} channels"


def _named_groups(model: nn.Module, found: Trace) -> dict[str, Group]:
    """Every group that some module produces, by the first such module, in the order of the forward."""
    produced = dict(found.layers.outputs)
    produced |= {module: _units_group(model, found, module, units) for module, units in found.units.items()}
    for module, join in found.joins.items():
        if any(member.role == "out" for member in join.group.find().members):
            join.group.fix("it is tied to what layers produce")
        produced[module] = join.group
    named: dict[str, Group] = {}
    seen: set[int] = set()
    order = {name: place for place, (name, _) in reversed(list(enumerate(found.calls)))}
    for module, group in sorted(produced.items(), key=lambda item: order.get(item[0], 0)):
        root = group.find()
        if id(root) not in seen:
            seen.add(id(root))
            named[module] = root
        elif module in found.joins:
            root.fix("it is tied to another concatenation")
    return named


def _units_group(model: nn.Module, found: Trace, name: str, units: Units) -> Group:
    """The group of what an adapter says that a module's units are."""
    module = model.get_submodule(name)
    followers = [Follower(name, attribute, getattr(module, attribute)) for attribute in units.attributes]
    group = Group(units.count, followers=followers, split=True)
    for part, copies in (*units.produced_by.items(), *((part, None) for part in units.read_by)):
        layer, own = f"{name}.{part}" if name else part, module.get_submodule(part)
        said = found.projection(layer)
        if not is_product(own, said, copies or 1):
            group.fix(f"{layer} is a {type(own).__name__}: an adapter has to say that it is a Projection")
        elif copies is None:
            group.add(input_member(layer, own, said))
        else:
            for member in output_members(layer, own, said, copies):
                group.add(member)
    return group


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


def _obstacle(model: nn.Module, group: Group, options: Options, join: Join | None) -> str | None:
    """Why a group stays at full width; None if it can be narrowed."""
    if group.fixed is not None:
        return group.fixed
    if group.stream and not options.streams:
        return "it is a residual stream: `streams=True` makes those elastic"
    if not any(m.role == "in" for m in group.members):
        return "no layer that could be sliced takes it as its input"
    if join is not None:
        return _join_obstacle(model, group, join) or _layers_obstacle(model, group)
    if len(choices(group.units, options.width_ratios, options.divisor)) < 2:
        return f"{group.units} units leave no choice of width"
    return _layers_obstacle(model, group)


def _layers_obstacle(model: nn.Module, group: Group) -> str | None:
    """Why one of the modules of a group cannot become an operator."""
    for name in dict.fromkeys([*(m.module for m in group.members), *(f.module for f in group.followers)]):
        reason = _class_obstacle(model, name)
        if reason is not None:
            return f"{name}: {reason}"
    return None


def _join_obstacle(model: nn.Module, group: Group, join: Join) -> str | None:
    """Why parts of a concatenation cannot be left out."""
    unit = join.size // group.units
    for part, size in join.parts.items():
        if size % unit:
            return f"{part} adds {size} channels to it, and it can only be cut into runs of {unit}"
        reason = _class_obstacle(model, part)
        if reason is not None:
            return f"{part}: {reason}"
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
