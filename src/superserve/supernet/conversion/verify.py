"""Try a plan on the example before believing it.

The trace says which dimensions can be narrowed; here each one is narrowed and run. The oracle knows nothing of
slicing: at full size, with the weights that read the dropped channels set to zero, the network must compute the same.
What fails stays at full size, with the reason.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from superserve.supernet.actuator import Binding, apply
from superserve.supernet.conversion.arguments import tensors
from superserve.supernet.conversion.network import ConvertedNetwork, own_statistics
from superserve.supernet.conversion.plan import Plan
from superserve.supernet.conversion.sizes import layer_sizes
from superserve.supernet.operators import Geometry, KeepSet, NormSlice, WeightSlice

Run = Callable[[], Any]
"""Runs the model on the example."""


def bind_geometry(network: ConvertedNetwork, geometry: Geometry) -> Binding:
    """What `bind` makes of a spec, for any geometry; normalises with the model's own running statistics."""
    binding: list[tuple[Any, Any]] = []
    for name, blocks in geometry.keep.items():
        block = network.get_submodule(name)
        assert isinstance(block, KeepSet)
        binding.append((block.slot, block.bind(blocks)))
    for name, sizes in geometry.slices.items():
        layer = network.get_submodule(name)
        assert isinstance(layer, WeightSlice)
        binding.append((layer.slot, layer.bind(*sizes)))
    for name, count in geometry.channels.items():
        norm = network.get_submodule(name)
        assert isinstance(norm, NormSlice)
        binding.append((norm.slot, norm.bind(count, own_statistics(norm, count))))
    return tuple(binding)


def full_geometry(plan: Plan) -> Geometry:
    """The largest subnet's."""
    return plan.geometry_of([group.units for group in plan.groups], set())


def failing_groups(network: ConvertedNetwork, run: Run) -> dict[str, str]:
    """Groups that cannot be narrowed after all, with the reason: all others can be, together."""
    groups = network.superserve_plan.groups
    if _mismatch(network, run, range(len(groups))) is None:
        return {}
    failing: dict[str, str] = {}
    accepted: list[int] = []
    for number, group in enumerate(groups):
        reason = _mismatch(network, run, [*accepted, number])
        if reason is None:
            accepted.append(number)
        else:
            failing[group.name] = reason
    return failing


def failing_blocks(network: ConvertedNetwork, run: Run) -> dict[str, str]:
    """Residual blocks without which the model does not run, with the reason.

    The parts of a concatenation are tried with the group of what they make.
    """
    plan = network.superserve_plan
    blocks = [
        block.module for stage in plan.stages for block in stage.blocks if block.skippable and block.joins is None
    ]
    if _skip(network, run, blocks) is None:
        return {}
    failing: dict[str, str] = {}
    accepted: list[str] = []
    for block in blocks:
        reason = _skip(network, run, [*accepted, block])
        if reason is None:
            accepted.append(block)
        else:
            failing[block] = reason
    return failing


def _skip(network: ConvertedNetwork, run: Run, blocks: Sequence[str]) -> str | None:
    plan = network.superserve_plan
    apply(bind_geometry(network, full_geometry(plan)))
    apply(bind_geometry(network, plan.geometry_of([group.units for group in plan.groups], set(blocks))))
    try:
        run()
    except Exception as error:  # noqa: BLE001 (any error of the user's model means the same)
        return f"the model does not run without it: {_first_line(error)}"
    return None


def _mismatch(network: ConvertedNetwork, run: Run, chosen: Sequence[int]) -> str | None:
    """Why the chosen groups cannot be narrowed together to their least width; None if they can."""
    plan = network.superserve_plan
    least = {number: plan.least(number) for number in chosen}
    kept = [least[number][0] if number in least else group.units for number, group in enumerate(plan.groups)]
    dropped = {block for _, blocks in least.values() for block in blocks}
    apply(bind_geometry(network, full_geometry(plan)))
    _mask(network, plan.left(kept, dropped))
    with _captured(network) as wanted:
        wanted[""] = list(tensors(run()))
    apply(bind_geometry(network, plan.geometry_of(kept, dropped)))
    try:
        with _captured(network) as found:
            found[""] = list(tensors(run()))
    except Exception as error:  # noqa: BLE001 (any error of the user's model means the same)
        return f"the model does not run when it is narrower: {_first_line(error)}"
    finally:
        apply(bind_geometry(network, full_geometry(plan)))
    for name, outputs in found.items():
        if len(outputs) != len(wanted[name]) or not all(map(_alike, outputs, wanted[name])):
            return f"{name or 'the model'} computes something else when it is narrower"
    return None


def _mask(network: ConvertedNetwork, kept: Sequence[int]) -> None:
    """At full size: zero the weights that read channels beyond the kept ones."""
    plan = network.superserve_plan
    for layer in plan.layers:
        module = network.get_submodule(layer.module)
        if layer.in_group is None or layer_sizes(module, layer.projection).tied:
            continue
        assert isinstance(module, WeightSlice)
        content = module.bind(layer.outputs, layer.inputs)
        mapping = isinstance(content, Mapping)
        weight = (content["weight"] if mapping else content.weight).clone()
        left = layer.inputs * kept[layer.in_group] // plan.groups[layer.in_group].units
        weight.narrow(layer.weight_dims[1], left, layer.inputs - left).zero_()
        module.slot.value = {**content, "weight": weight} if mapping else content._replace(weight=weight)


@contextmanager
def _captured(network: ConvertedNetwork) -> Iterator[dict[str, list[Tensor]]]:
    """The outputs of every sliced layer and norm of the runs in this context."""
    outputs: dict[str, list[Tensor]] = {}

    def note(name: str, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        outputs.setdefault(name, []).append(output)

    plan = network.superserve_plan
    names = [layer.module for layer in plan.layers if layer.copies == 1] + [norm.module for norm in plan.norms]
    handles = [network.get_submodule(name).register_forward_hook(partial(note, name)) for name in names]
    try:
        with torch.no_grad():
            yield outputs
    finally:
        for handle in handles:
            handle.remove()


def _alike(narrow: Tensor, full: Tensor) -> bool:
    """Whether the leading part of the full tensor is the narrow one, as far as its type can tell."""
    if narrow.dim() != full.dim() or any(a > b for a, b in zip(narrow.shape, full.shape, strict=True)):
        return False
    part = full[tuple(slice(size) for size in narrow.shape)]
    if not narrow.is_floating_point():
        return bool(torch.equal(narrow, part))
    scale = float(part.abs().nan_to_num().amax()) if part.numel() else 0.0
    tolerance = 1e4 * torch.finfo(narrow.dtype).eps
    return torch.allclose(narrow, part, rtol=0.0, atol=min(tolerance, 0.05) * scale + 1e-30, equal_nan=True)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
