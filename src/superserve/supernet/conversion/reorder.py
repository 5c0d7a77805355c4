"""Importance reordering: the most important channels, neurons and heads first.

A subnet keeps the *first* units of a group, so what comes first must be what matters most. One permutation per group,
of everything that produces, treats and consumes its channels, leaves what the full network computes unchanged. Meant
to be done once, before training as a supernet.

Source: OFA's ``re_organize_middle_weights`` (channels by the L1 norm of the weights that read them) and DynaBERT's
rewiring of heads and neurons; heads go by the norm of their part of the output projection.
"""

from typing import Any

import torch
from torch import Tensor, nn

from superserve.errors import ConversionError
from superserve.supernet.actuator import apply
from superserve.supernet.conversion.arguments import tensors
from superserve.supernet.conversion.conversion import Conversion
from superserve.supernet.conversion.operators import original
from superserve.supernet.conversion.plan import GroupPlan, Plan
from superserve.supernet.conversion.sizes import layer_sizes
from superserve.supernet.conversion.tracer import evaluation
from superserve.supernet.conversion.verify import bind_geometry, full_geometry

#: Largest allowed change of the full network's output, relative to its largest value: rounding, nothing else.
TOLERANCE = 1e-5


def reorder_by_importance(conversion: Conversion) -> dict[str, tuple[int, ...]]:
    """Sort the units of every elastic width by falling importance, in place; the full network's output stays.

    Forgets calibrated statistics; leaves the largest subnet active.

    Returns:
        For every width, which unit stands at each place now.

    Raises:
        ConversionError: if the output changed beyond rounding; the weights are put back first.
    """
    network = conversion.model
    plan = network.superserve_plan
    args, kwargs = conversion.example

    def outputs() -> list[Tensor]:
        apply(bind_geometry(network, full_geometry(plan)))
        with torch.no_grad(), evaluation(network):
            return [tensor.clone() for tensor in tensors(network(*args, **kwargs))]

    before = outputs()
    # What is left of a concatenation is said by the blocks that run: its channels have to stay in their order.
    widths = {number: group.name for number, group in enumerate(plan.groups) if not group.parts}
    orders = {name: _order(network, plan, number) for number, name in widths.items()}
    for number, name in widths.items():
        _permute(network, plan, number, orders[name])
    conversion.forget_statistics()
    if not all(map(_close, before, outputs())):
        for number, name in widths.items():
            _permute(network, plan, number, torch.argsort(orders[name]))
        outputs()
        raise ConversionError(
            "reordering would change the model's output: a width is not as interchangeable as it seemed; "
            "nothing was changed"
        )
    return {name: tuple(order.tolist()) for name, order in orders.items()}


def _close(before: Tensor, after: Tensor) -> bool:
    if not before.is_floating_point():
        return bool(torch.equal(before, after))
    scale = max(1.0, float(before.abs().amax())) if before.numel() else 1.0
    limit = max(TOLERANCE, 100 * torch.finfo(before.dtype).eps)
    return torch.allclose(before, after, rtol=0.0, atol=limit * scale, equal_nan=True)


def _order(network: nn.Module, plan: Plan, number: int) -> Tensor:
    """Units by falling importance; equal ones keep their order."""
    group = plan.groups[number]
    importance = torch.zeros(group.units, dtype=torch.float64)
    for layer in plan.layers:
        module = network.get_submodule(layer.module)
        if layer.in_group == number and not layer_sizes(module, layer.projection).tied:
            importance += _read_norm(original(module, "weight"), layer.weight_dims[1], group)
    return torch.argsort(importance, descending=True, stable=True)


def _read_norm(weight: Tensor, inputs: int, group: GroupPlan) -> Tensor:
    """Per unit, the norm of the weights that read it, along the dimension of the inputs: L1, or L2 for heads."""
    reading = weight.detach().double().movedim(inputs, 0).reshape(group.units, -1)
    norms: Tensor = torch.linalg.vector_norm(reading, ord=2 if group.kind == "heads" else 1, dim=1)
    return norms.cpu()


def _permute(network: nn.Module, plan: Plan, number: int, order: Tensor) -> None:
    """Put the units of one group into an order, wherever they stand."""
    for layer in plan.layers:
        module = network.get_submodule(layer.module)
        outputs, inputs = layer.weight_dims
        if layer.out_group == number:
            _permute_tensor(module, "weight", outputs, order, layer.copies)
            _permute_tensor(module, "bias", 0, order, layer.copies)
        if layer.in_group == number and not layer_sizes(module, layer.projection).tied:
            _permute_tensor(module, "weight", inputs, order, 1)
    for norm in plan.norms:
        if norm.group == number:
            for name in ("weight", "bias", "running_mean", "running_var"):
                _permute_tensor(network.get_submodule(norm.module), name, 0, order, 1)


def _permute_tensor(module: nn.Module, name: str, dim: int, order: Tensor, copies: int) -> None:
    tensor: Any = module._parameters.get(name, module._buffers.get(name))  # noqa: SLF001 (below any property)
    if tensor is None or tensor.shape[dim] < len(order):
        return
    per_unit = tensor.shape[dim] // copies // len(order)
    places = torch.arange(tensor.shape[dim]).view(copies, len(order), per_unit)[:, order].flatten()
    with torch.no_grad():
        tensor.copy_(tensor.index_select(dim, places.to(tensor.device)))
