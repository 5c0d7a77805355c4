"""From what was found to a plan."""

from collections.abc import Iterator, Sequence

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from superserve.supernet.conversion.blocks import join_stage, make_stages
from superserve.supernet.conversion.findings import Findings
from superserve.supernet.conversion.groups import Group, Join
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
from superserve.supernet.conversion.sizes import layer_sizes
from superserve.supernet.conversion.trace import Trace


def make_plan(model: nn.Module, found: Trace, findings: Findings, options: Options) -> Plan:
    """The plan for what is left in the findings."""
    stages = _stages(model, found, findings, options)
    groups = list(findings.groups.values())
    plans = tuple(
        _join_plan(name, group, findings.joins[name])
        if name in findings.joins
        else _group_plan(name, group, _kind(model, found, group), stages, options)
        for name, group in findings.groups.items()
    )
    layers = tuple(_layer_plans(model, found, groups))
    norms = []
    by_norm = {m.module: number for number, group in enumerate(groups) for m in group.members}
    for name in sorted(found.layers.norms):
        module = model.get_submodule(name)
        assert isinstance(module, _BatchNorm)
        norms.append(NormPlan(module=name, channels=module.num_features, group=by_norm.get(name)))
    counters = tuple(_counter_plans(groups))
    return Plan(groups=plans, layers=layers, norms=tuple(norms), counters=counters, stages=stages)


def _stages(model: nn.Module, found: Trace, findings: Findings, options: Options) -> tuple[StagePlan, ...]:
    """Rows of residual blocks and of parts of concatenations, in the order of the forward."""
    rows = make_stages(model, found, findings.blocks, depth_ratios=options.depth_ratios, rule=options.depth_rule)
    joins = [
        join_stage(findings.joins[name], options.depth_ratios) for name in findings.groups if name in findings.joins
    ]
    order = [name for name, _ in found.calls]
    return tuple(sorted((*rows, *joins), key=lambda stage: order.index(stage.blocks[0].module)))


def _join_plan(name: str, group: Group, join: Join) -> GroupPlan:
    unit = join.size // group.units
    parts = {part: size // unit for part, size in join.parts.items()}
    return GroupPlan(name=name, kind="channels", units=group.units, choices=((1.0, group.units),), parts=parts)


def _kind(model: nn.Module, found: Trace, group: Group) -> Kind:
    if group.split:
        return "heads"
    first = next(m.module for m in group.members if m.role == "out")
    linear = isinstance(model.get_submodule(first), nn.Linear) or found.projection(first) is not None
    return "neurons" if linear else "channels"


def _group_plan(name: str, group: Group, kind: Kind, stages: Sequence[StagePlan], options: Options) -> GroupPlan:
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


def _layer_plans(model: nn.Module, found: Trace, groups: Sequence[Group]) -> Iterator[LayerPlan]:
    dims: dict[str, dict[int, int]] = {}
    copies: dict[str, int] = {}
    for number, group in enumerate(groups):
        for m in group.members:
            if not isinstance(model.get_submodule(m.module), _BatchNorm) and m.parameter == "weight":
                dims.setdefault(m.module, {})[m.dim] = number
                copies[m.module] = max(copies.get(m.module, 1), m.copies)
    for name, by_dim in dims.items():
        module = model.get_submodule(name)
        said = found.projection(name)
        outputs, inputs, tied = layer_sizes(module, said)
        out_group = by_dim.get(0)
        in_group = out_group if tied else by_dim.get(1)
        yield LayerPlan(
            module=name,
            outputs=outputs,
            inputs=inputs,
            out_group=out_group,
            in_group=in_group,
            copies=copies[name],
            projection=said,
        )


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
