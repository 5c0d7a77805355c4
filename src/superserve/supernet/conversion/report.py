"""What a conversion did, in words."""

import msgspec

from superserve.supernet.conversion.findings import Findings, Fixed
from superserve.supernet.conversion.plan import Plan

UNTRAINED = (
    "This network was not trained as a supernet, as far as a conversion can tell. Its largest subnet computes what the "
    "model computed; its narrower and shallower subnets need training before their answers are any good: reorder by "
    "importance once (`reorder_by_importance`), then train with the sandwich rule."
)


class ElasticWidth(msgspec.Struct, frozen=True, kw_only=True):
    """A width that became elastic."""

    name: str
    kind: str
    units: int
    kept: tuple[int, ...]
    """Numbers of units that may be kept."""
    layers: tuple[str, ...]
    """Modules that are narrowed with it."""


class ElasticStage(msgspec.Struct, frozen=True, kw_only=True):
    """A row of blocks, some of which may be skipped."""

    blocks: tuple[str, ...]
    depths: tuple[int, ...]
    rule: str


class FixedPart(msgspec.Struct, frozen=True, kw_only=True):
    """Something that stayed as it was."""

    name: str
    what: str
    reason: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What became elastic, what stayed fixed and why; ``str`` gives it as text."""

    model: str
    widths: tuple[ElasticWidth, ...]
    stages: tuple[ElasticStage, ...]
    fixed: tuple[FixedPart, ...]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{self.model}: {len(self.widths)} elastic widths, {len(self.stages)} elastic stages", ""]
        lines += [f"  width {_width(width)}" for width in self.widths]
        lines += [f"  depth {_stage(stage)}" for stage in self.stages]
        if self.fixed:
            lines += ["", "Fixed:"]
            lines += [f"  {part.name} ({part.what}): {part.reason}" for part in self.fixed]
        for note in self.notes:
            lines += ["", note]
        return "\n".join(lines)


def _width(width: ElasticWidth) -> str:
    kept = ", ".join(str(count) for count in width.kept)
    return f"{width.name}: {kept} of {width.units} {width.kind} ({len(width.layers)} layers)"


def _stage(stage: ElasticStage) -> str:
    depths = ", ".join(str(depth) for depth in stage.depths)
    return f"{stage.blocks[0]} .. {stage.blocks[-1]}: {depths} of {len(stage.blocks)} blocks, {stage.rule}"


def make_report(model: str, plan: Plan, findings: Findings, notes: tuple[str, ...]) -> Report:
    """The report of a plan that was carried out."""
    widths = tuple(
        ElasticWidth(
            name=group.name,
            kind=group.kind,
            units=group.units,
            kept=tuple(count for _, count in group.choices),
            layers=tuple(dict.fromkeys(member.module for member in findings.groups[group.name].members)),
        )
        for group in plan.groups
        if not group.parts
    )
    stages = tuple(
        ElasticStage(blocks=tuple(block.module for block in stage.blocks), depths=stage.depths, rule=stage.rule)
        for stage in plan.stages
    )
    return Report(
        model=model, widths=widths, stages=stages, fixed=tuple(map(_fixed, findings.fixed)), notes=(*notes, UNTRAINED)
    )


def _fixed(part: Fixed) -> FixedPart:
    return FixedPart(name=part.name, what=part.what, reason=part.reason)
