"""Stages: which of a model's modules are residual blocks, and how they stand in rows."""

from collections.abc import Sequence

from torch import nn

from superserve.subnet import KeepRule
from superserve.supernet.conversion.groups import Join
from superserve.supernet.conversion.plan import BlockPlan, StagePlan
from superserve.supernet.conversion.trace import Candidate, Trace, repeated_calls


def choose_blocks(found: Trace) -> list[Candidate]:
    """The candidates that are blocks, in the order of the forward.

    Residual modules nest: an encoder whose output is its input plus what its layers added is one itself, and so is
    the attention in a layer. A block is a candidate with at most one candidate directly inside; what has more is a
    row of blocks, and its parts are looked at instead. So is what holds nothing but a row.
    """
    repeated = repeated_calls(found)
    candidates = {c.module: c for c in found.candidates if c.module not in repeated}
    inside: dict[str, list[str]] = {name: [] for name in candidates}
    roots: list[str] = []
    for name in candidates:
        parent = _nearest(name, candidates)
        (roots if parent is None else inside[parent]).append(name)
    order = [name for name, _ in found.calls]
    chosen = [block for root in roots for block in _descend(root, inside)]
    return [candidates[name] for name in sorted(chosen, key=order.index)]


def _nearest(name: str, candidates: dict[str, Candidate]) -> str | None:
    """The innermost other candidate around a module."""
    while "." in name:
        name = name.rpartition(".")[0]
        if name in candidates:
            return name
    return None


def _descend(name: str, inside: dict[str, list[str]]) -> list[str]:
    """A candidate itself, or the blocks of the row that it is."""
    if not _is_row(name, inside):
        return [name]
    return [block for part in inside[name] for block in _descend(part, inside)]


def _is_row(name: str, inside: dict[str, list[str]]) -> bool:
    parts = inside[name]
    if len(parts) == 1:
        return parts[0].rpartition(".")[2].isdigit() or _is_row(parts[0], inside)
    return len(parts) > 1


def make_stages(
    model: nn.Module,
    found: Trace,
    blocks: Sequence[Candidate],
    *,
    depth_ratios: tuple[float, ...],
    rule: KeepRule | None,
) -> tuple[StagePlan, ...]:
    """Group blocks that follow each other in one container, each with the always kept block that leads it.

    Args:
        model: the model.
        found: its trace.
        blocks: the blocks that can be skipped, in the order of the forward.
        depth_ratios: which shares of a stage's blocks may be kept.
        rule: which blocks a depth keeps; None: the first ones of convolutional blocks, as in OFA, else spread, as
            DynaBERT does for transformers.
    """
    rows: list[list[Candidate]] = []
    for block in blocks:
        last = rows[-1][-1] if rows else None
        if last is not None and _parent(last.module) == _parent(block.module) and last.shape == block.shape:
            rows[-1].append(block)
        else:
            rows.append([block])
    return tuple(_stage(model, found, row, depth_ratios, rule) for row in rows)


def _stage(
    model: nn.Module, found: Trace, row: list[Candidate], depth_ratios: tuple[float, ...], rule: KeepRule | None
) -> StagePlan:
    plans = [
        BlockPlan(module=c.module, skippable=True, keyword=c.keyword, answers=c.answers, alone=c.alone) for c in row
    ]
    head = _head(model, found, row[0].module)
    if head is not None:
        plans.insert(0, BlockPlan(module=head, skippable=False))
    parts = model.get_submodule(row[0].module).modules()
    convolutional = any(isinstance(part, nn.modules.conv._ConvNd) for part in parts)  # noqa: SLF001 (the common base)
    chosen: KeepRule = rule or ("first" if convolutional else "spread")
    return StagePlan(blocks=tuple(plans), depths=_depths(len(plans), depth_ratios), rule=chosen)


def join_stage(join: Join, depth_ratios: tuple[float, ...]) -> StagePlan:
    """The parts of a concatenation, of which the last ones can be left out: what is left is then a leading part."""
    blocks = tuple(BlockPlan(module=part, skippable=True, joins=join.dim) for part in join.parts)
    return StagePlan(blocks=blocks, depths=_depths(len(blocks), depth_ratios), rule="first")


def _depths(blocks: int, ratios: tuple[float, ...]) -> tuple[int, ...]:
    """How many blocks may be kept: at least one of a row; a single block on its own may go."""
    depths = {max(1, int(blocks * ratio + 0.5)) for ratio in ratios} | {blocks}
    return tuple(sorted(depths | {0} if blocks == 1 else depths))


def _head(model: nn.Module, found: Trace, first: str) -> str | None:
    """The block right before the first skippable one, of the same class: it changes the shape, so it always runs."""
    parent, _, name = first.rpartition(".")
    names = [key for key, _ in model.get_submodule(parent).named_children()]
    place = names.index(name)
    if place == 0:
        return None
    before = f"{parent}.{names[place - 1]}" if parent else names[place - 1]
    same = type(model.get_submodule(before)) is type(model.get_submodule(first))
    candidates = {candidate.module for candidate in found.candidates}
    called = [key for key, _ in found.calls]
    return before if same and before in called and before not in candidates else None


def _parent(name: str) -> str:
    return name.rpartition(".")[0]
