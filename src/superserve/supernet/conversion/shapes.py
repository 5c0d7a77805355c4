"""Rules for functions that move dimensions about, split them or join them."""

from collections.abc import Sequence
from math import prod

from superserve.supernet.conversion.operand import Call, Dims, Operand, index
from superserve.supernet.conversion.rules import VIEWS, broadcast, rule


@rule(*VIEWS, "ravel", "unsafe_view")
def _reshape(call: Call) -> Dims:
    """Same elements in the same order, other dimensions."""
    return reshaped(call, call.first, call.shape)


def reshaped(call: Call, x: Operand, shape: tuple[int, ...]) -> Dims:
    """The groups of a tensor read with another shape.

    Splits both shapes into the shortest runs of equal products. In a run a group survives if its dimension is the
    run's outermost, before and after: then its units stay runs of equal length in order.
    """
    dims: Dims = []
    i = j = 0
    while i < len(x.shape) or j < len(shape):
        if i < len(x.shape) and j < len(shape) and x.shape[i] == shape[j]:
            dims.append(x.dims[i])
            i, j = i + 1, j + 1
            continue
        inner, outer = _run(x.shape, i, shape, j)
        dims += _through_run(call, x, range(i, inner), shape[j:outer])
        i, j = inner, outer
    return dims


def _run(before: Sequence[int], i: int, after: Sequence[int], j: int) -> tuple[int, int]:
    """The ends of the shortest run from (i, j) whose products are equal."""
    end_i, end_j = min(i + 1, len(before)), min(j + 1, len(after))
    while prod(before[i:end_i]) != prod(after[j:end_j]):
        if prod(before[i:end_i]) < prod(after[j:end_j]) and end_i < len(before):
            end_i += 1
        elif end_j < len(after):
            end_j += 1
        else:
            return len(before), len(after)
    return end_i, end_j


def _through_run(call: Call, x: Operand, run: Sequence[int], after: Sequence[int]) -> Dims:
    tagged = [dim for dim in run if x.dims[dim] is not None]
    result: Dims = [None] * len(after)
    if not tagged:
        return result
    outermost = next((place for place, size in enumerate(after) if size > 1), None)
    # A dimension of size one before the group may be a batch of one, which another batch would mix in.
    if tagged != [run[0]] or outermost is None:
        x.fix(f"{call.name} in {call.place} mixes it with another dimension", tagged)
        return result
    group = x.dims[tagged[0]]
    assert group is not None
    group.divide(after[outermost])
    if after[outermost] < x.shape[tagged[0]]:
        group.find().split = True
    result[outermost] = group
    return result


@rule("permute")
def _permute(call: Call) -> Dims:
    order = call.argument(1, "dims")
    order = order if isinstance(order, tuple | list) else call.args[1:]
    return [call.first.dims[index(dim, len(order))] for dim in order]


@rule("transpose", "swapaxes", "swapdims")
def _transpose(call: Call) -> Dims:
    x = call.first
    names = [("dim0", "dim1"), ("axis0", "axis1")][call.name == "swapaxes"]
    a, b = (index(call.argument(place + 1, name), len(x.dims)) for place, name in enumerate(names))
    dims = list(x.dims)
    dims[a], dims[b] = dims[b], dims[a]
    return dims


@rule("get:T", "get:mT", "t", "numpy_T")
def _turn(call: Call) -> Dims:
    dims = call.first.dims
    return [*dims[:-2], *reversed(dims[-2:])] if call.name == "get:mT" else dims[::-1]


@rule("movedim", "moveaxis")
def _movedim(call: Call) -> Dims:
    x = call.first
    source, target = (call.argument(1, "source"), call.argument(2, "destination"))
    if not isinstance(source, int) or not isinstance(target, int):
        x.fix(f"movedim in {call.place} is not of a form that is understood")
        return [None] * len(x.dims)
    dims = list(x.dims)
    dims.insert(index(target, len(dims)), dims.pop(index(source, len(dims))))
    return dims


@rule("expand", "expand_as", "broadcast_to")
def _expand(call: Call) -> Dims:
    return broadcast(call, [call.first], call.shape)


@rule("repeat", "tile")
def _repeat(call: Call) -> Dims:
    x = call.first
    padded = [1] * (len(call.shape) - len(x.shape)) + list(x.shape)
    shift = len(call.shape) - len(x.shape)
    grown = [dim - shift for dim in range(shift, len(padded)) if call.shape[dim] != padded[dim]]
    x.fix(f"{call.name} in {call.place} repeats it", grown)
    return [*[None] * shift, *(None if dim in grown else group for dim, group in enumerate(x.dims))]


@rule("repeat_interleave")
def _repeat_interleave(call: Call) -> Dims:
    """Each index several times in a row: units stay runs in order."""
    x = call.first
    dim, count = call.argument(2, "dim"), call.argument(1, "repeats")
    if dim is None or not isinstance(count, int):
        x.fix(f"repeat_interleave in {call.place} is not of a form that is understood")
        return [None] * len(call.shape)
    return list(x.dims)


@rule("getitem")
def _getitem(call: Call) -> Dims:
    """Indexing: whole dimensions stay, picked ones go; part of a group's dimension fixes it."""
    x, chosen = call.args
    chosen = chosen if isinstance(chosen, tuple) else (chosen,)
    simple = [item for item in chosen if item is None or item is Ellipsis or isinstance(item, int | slice)]
    if len(simple) < len(chosen) or not isinstance(x, Operand):
        for operand in call.operands:
            operand.fix(f"indexing in {call.place} picks by a tensor")
        return [None] * len(call.shape)
    used = sum(item is not None and item is not Ellipsis for item in chosen)
    if Ellipsis not in chosen:
        chosen = (*chosen, Ellipsis)
    dims: Dims = []
    place = 0
    for item in chosen:
        if item is None:
            dims.append(None)
        elif item is Ellipsis:
            rest = len(x.dims) - used
            dims += x.dims[place : place + rest]
            place += rest
        else:
            whole = isinstance(item, slice) and len(range(x.shape[place])[item]) == x.shape[place]
            if not whole or item.step not in {None, 1}:
                x.fix(f"indexing in {call.place} picks part of it", [place])
            if isinstance(item, slice):
                dims.append(x.dims[place] if whole else None)
            place += 1
    return dims


@rule("select", "narrow", "index_select", "unbind", "iter", "chunk", "split", "tensor_split", "split_with_sizes")
def _pick(call: Call) -> list[Dims]:
    """Parts of one dimension."""
    x = call.first
    place = {"unbind": 1, "iter": 1, "select": 1, "narrow": 1, "index_select": 1}.get(call.name, 2)
    dim = index(call.argument(place, "dim", 0), len(x.dims))
    x.fix(f"{call.name} in {call.place} takes it apart; if it is a fused projection, an adapter can say so", [dim])
    kept: Dims = [None if place == dim else group for place, group in enumerate(x.dims)]
    if call.shapes and len(call.shape) < len(x.dims):
        del kept[dim]
    return [list(kept) for _ in call.shapes]


@rule("cat", "concat", "concatenate", "stack", "hstack", "vstack")
def _join(call: Call) -> Dims:
    """Puts tensors one after the other."""
    dim = call.argument(1, "dim", 0) if call.name in {"cat", "concat", "concatenate", "stack"} else None
    if dim is None or not isinstance(dim, int):
        for operand in call.operands:
            operand.fix(f"{call.name} in {call.place} joins it with others")
        return [None] * len(call.shape)
    dim = index(dim, len(call.shape))
    parts = call.operands
    if call.name == "stack":
        shape = tuple(size for place, size in enumerate(call.shape) if place != dim)
        tied = broadcast(call, parts, shape)
        return [*tied[:dim], None, *tied[dim:]]
    for part in parts:
        reason = f"{call.name} in {call.place} concatenates it with others"
        part.fix(f"{reason}; if whole parts may be left out, an adapter can say so", [dim])
    rest = tuple(1 if place == dim else size for place, size in enumerate(call.shape))
    return broadcast(call, parts, rest)


@rule("setitem")
def _setitem(call: Call) -> Dims:
    for operand in call.operands:
        operand.fix(f"assignment by index in {call.place} writes into it")
    return []
