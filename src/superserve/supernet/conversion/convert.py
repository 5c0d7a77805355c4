"""`convert`: insert the operators into an unmodified model.

After Khare et al., "SuperServe", NSDI 2025, algorithm 1 (appendix A.1), for models that it has never seen: what the
paper finds by module types, an example forward finds here.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from superserve.errors import ConversionError
from superserve.supernet.actuator import apply
from superserve.supernet.conversion.arguments import tensors
from superserve.supernet.conversion.build import make_plan
from superserve.supernet.conversion.conversion import Conversion
from superserve.supernet.conversion.findings import Findings, find, guess_followers
from superserve.supernet.conversion.network import ConvertedNetwork, insert, remove
from superserve.supernet.conversion.options import Options
from superserve.supernet.conversion.report import make_report
from superserve.supernet.conversion.trace import Trace
from superserve.supernet.conversion.tracer import evaluation, trace
from superserve.supernet.conversion.verify import (
    bind_geometry,
    failing_blocks,
    failing_groups,
    full_geometry,
)

Example = Tensor | tuple[Any, ...] | Mapping[str, Any]
"""Arguments of a model: one tensor, a tuple of positional ones, or a mapping of named ones."""


def convert(model: nn.Module, example_input: Example, **options: Any) -> Conversion:  # noqa: ANN401 (see Options)
    """Make a model elastic, in place.

    Runs the example a few times in evaluation mode. Afterwards the same module object, with the same parameters,
    ``state_dict`` keys, hooks and ``isinstance``, is an `ElasticNetwork`, actuated to its largest subnet: it computes
    exactly what it did. If it cannot be converted it is left as it was.

    Args:
        model: any module that runs on torch tensors.
        example_input: one tensor, a tuple of positional arguments or a mapping of keyword arguments; at least two
            rows are best, so that the batch cannot be taken for something else.
        options: see `Options`.

    Raises:
        ConversionError: if the model rejects the example, depends on the values of data in its control flow, or has
            nothing that can be made elastic; or for an option that cannot be used.
    """
    try:
        chosen = Options(**options)
    except TypeError as error:
        raise ConversionError(f"convert: {error}; the options are {', '.join(Options.__struct_fields__)}") from None
    chosen.check()
    _check_model(model)
    args, kwargs = _arguments(example_input)

    def run() -> Any:  # noqa: ANN401 (whatever the model returns)
        with torch.no_grad():
            return model(*args, **kwargs)

    with evaluation(model):
        before = _baseline(run)
        found = _traced(model, args, kwargs)
        notes = _check_control_flow(model, args, kwargs, found)
        findings = find(model, found, chosen)
        network = _insert_what_works(model, found, findings, chosen, run)
        try:
            _check_identical(network, run, before)
        except BaseException:
            remove(model)
            raise
    report = make_report(type(model).__name__, network.superserve_plan, findings, notes)
    return Conversion(network, report, (args, kwargs))


def _check_model(model: nn.Module) -> None:
    if isinstance(model, ConvertedNetwork):
        raise ConversionError("the model is converted already")
    for name in ("space", "geometry", "superserve_plan"):
        if hasattr(model, name):
            raise ConversionError(
                f"the model has an attribute {name!r}, which a supernet needs for itself: wrap the model in a module "
                "that calls it"
            )
    if isinstance(model, torch.jit.ScriptModule):
        raise ConversionError("the model is TorchScript: convert the Python module that it was made from")


def _arguments(example: Example) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example, Tensor):
        return (example,), {}
    return ((), dict(example)) if isinstance(example, Mapping) else (tuple(example), {})


def _baseline(run: Callable[[], Any]) -> list[Tensor]:
    """The model's outputs before anything is done to it."""
    try:
        before, again = list(tensors(run())), list(tensors(run()))
    except Exception as error:
        raise ConversionError(
            f"the model rejects the example input: {type(error).__name__}: {error}: give an input as for serving"
        ) from error
    if not before:
        raise ConversionError("the model returns no tensor for the example input: wrap it so that it does")
    if not _equal(before, again):
        raise ConversionError(
            "two runs on the example gave different outputs: the model draws random numbers, or keeps state, also in "
            "evaluation mode"
        )
    return before


def _equal(first: list[Tensor], second: list[Tensor]) -> bool:
    """Bit for bit; NaN equals NaN."""
    return len(first) == len(second) and all(
        a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)
        for a, b in zip(first, second, strict=True)
    )


def _traced(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Trace:
    try:
        return trace(model, args, kwargs)
    except ConversionError:
        raise
    except Exception as error:
        raise ConversionError(f"the model cannot be watched while it runs: {type(error).__name__}: {error}") from error


def _check_control_flow(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], found: Trace
) -> tuple[str, ...]:
    """Refuse models that run other layers for other data.

    Every branch on a tensor is tried the other way round: it may differ in what it computes between the layers, such
    as leaving out a mask that masks nothing, but not in which layers run on what. Then the example's values are
    shuffled.
    """
    notes = []
    for number, branch in enumerate(found.branches):
        try:
            other = trace(model, args, kwargs, forced={number: not branch.outcome})
        except Exception as error:
            raise ConversionError(_data_dependent(branch.where, f"it fails: {error}")) from error
        if other.calls != found.calls:
            raise ConversionError(_data_dependent(branch.where, "other layers run"))
        notes.append(f"The model branches on data {branch.where}; both ways run the same layers.")
    for seed in range(2):
        try:
            shuffled = trace(model, *_shuffled(args, kwargs, seed))
        except Exception:  # noqa: BLE001, S112 (a model may refuse values that are no example)
            continue
        if shuffled.calls != found.calls:
            raise ConversionError(
                "the model runs other layers, or layers on other shapes, when the example's values are shuffled: "
                "its control flow depends on data"
            )
    return tuple(notes)


def _data_dependent(where: str, otherwise: str) -> str:
    return (
        f"the model's control flow depends on data {where}; with the other outcome {otherwise}. Compute with "
        "torch.where there, or convert the part of the model without it"
    )


def _shuffled(args: tuple[Any, ...], kwargs: Mapping[str, Any], seed: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    generator = torch.Generator().manual_seed(seed)

    def shuffle(value: Any) -> Any:  # noqa: ANN401 (any argument)
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        order = torch.randperm(value.numel(), generator=generator).to(value.device)
        return value.flatten()[order].view(value.shape)

    return tuple(map(shuffle, args)), {key: shuffle(value) for key, value in kwargs.items()}


def _insert_what_works(
    model: nn.Module, found: Trace, findings: Findings, options: Options, run: Callable[[], Any]
) -> ConvertedNetwork:
    """Insert the operators; leave out what turns out not to work when it is tried."""
    guesses = {
        name: [] if name in findings.joins else guess_followers(model, found, group)
        for name, group in findings.groups.items()
    }
    while findings.groups or findings.blocks:
        network = insert(model, make_plan(model, found, findings, options))
        try:
            groups = failing_groups(network, run)
            blocks = failing_blocks(network, run)
        except BaseException:
            remove(model)
            raise
        if not groups and not blocks:
            return network
        remove(model)
        for name, reason in groups.items():
            if guesses[name]:
                findings.groups[name].followers = guesses[name].pop(0)
            else:
                findings.drop_group(name, reason)
        for block in [block for block in findings.blocks if block.module in blocks]:
            findings.drop_block(block, blocks[block.module])
    reasons = "; ".join(f"{part.name} ({part.what}): {part.reason}" for part in findings.fixed[:5])
    raise ConversionError(
        f"nothing in the model can be made elastic: {reasons or 'it has no layers with channels that are used inside'}"
    )


def _check_identical(network: ConvertedNetwork, run: Callable[[], Any], before: list[Tensor]) -> None:
    apply(bind_geometry(network, full_geometry(network.superserve_plan)))
    if not _equal(before, list(tensors(run()))):
        raise ConversionError(
            "the converted model does not compute what the model computed: it depends on its modules' classes"
        )
