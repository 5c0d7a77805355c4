"""Adapters: how `convert` is told about modules that a forward does not explain.

An adapter is a function from a module to an `Adaptation`, known by the name of the module's class, so that no library
has to be imported for the sake of models that are not of it. What adapters say of a model is checked here against the
modules themselves; that it is true is tried later, like everything that the tracer finds (`verify.py`).
"""

from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, TypeVar

from torch import nn

from superserve.errors import ConversionError
from superserve.supernet.conversion.adaptations import Adaptation, Concatenation, Projection, Units
from superserve.supernet.conversion.sizes import is_product, layer_sizes

#: Entry points of this group are adapters of installed packages: the class that one describes is its name.
ENTRY_POINT_GROUP: Final = "superserve.adapters"

Adapter = Callable[[Any], Adaptation | None]
"""Describes a module of its class; None if it has nothing to say of this very module."""

A = TypeVar("A", bound=Adapter)

_ADAPTERS: dict[str, Adapter] = {}


def register_adapter(*classes: type[nn.Module] | str) -> Callable[[A], A]:
    """Use the decorated function for modules of these classes, and of their subclasses.

    Of the adapters that fit a module, that of its nearest class is asked, alone; of two for one class the one that was
    registered last, and rather than one that a package brings as an entry point.

    Args:
        classes: classes, or their names such as ``"timm.layers.attention.Attention"``, which import nothing.
    """

    def decorate(function: A) -> A:
        _ADAPTERS.update({kind if isinstance(kind, str) else _name(kind): function for kind in classes})
        return function

    return decorate


def adaptations_of(model: nn.Module) -> dict[str, Adaptation]:
    """What adapters say of a model's modules, by the modules' names.

    Raises:
        ConversionError: if an adapter fails, or says what cannot be; it names the module and what is wrong.
    """
    installed = {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}
    found: dict[str, Adaptation] = {}
    for name, module in model.named_modules():
        adapter = _adapter_of(type(module), installed)
        said = None if adapter is None else _ask(adapter, name, module)
        if said is not None:
            found[name] = said
    for name, said in found.items():
        problem = next(_problems(model.get_submodule(name), said, _inside(name, found)), None)
        if problem is not None:
            raise ConversionError(f"the adapter of {_words(name, model.get_submodule(name))} {problem}")
    return found


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _words(name: str, module: nn.Module) -> str:
    return f"{name or 'the model itself'} ({type(module).__name__})"


def _adapter_of(kind: type, installed: Mapping[str, EntryPoint]) -> Adapter | None:
    for name in map(_name, kind.__mro__):
        if name in _ADAPTERS:
            return _ADAPTERS[name]
        if name in installed:
            return _load(installed[name])
    return None


def _load(entry: EntryPoint) -> Adapter:
    try:
        adapter: Adapter = entry.load()
    except Exception as error:
        raise ConversionError(
            f"the adapter of {entry.name}, which an installed package has at {entry.value!r}, cannot be loaded: "
            f"{type(error).__name__}: {error}"
        ) from error
    return adapter


def _ask(adapter: Adapter, name: str, module: nn.Module) -> Adaptation | None:
    try:
        said = adapter(module)
    except Exception as error:
        raise ConversionError(
            f"the adapter of {_words(name, module)} failed: {type(error).__name__}: {error}"
        ) from error
    if said is not None and not isinstance(said, Units | Projection | Concatenation):
        raise ConversionError(
            f"the adapter of {_words(name, module)} answers with {type(said).__name__}: it must be Units, Projection, "
            "Concatenation or None"
        )
    return said


def _inside(name: str, found: Mapping[str, Adaptation]) -> dict[str, Projection]:
    """Projections in a module, by their names in it."""
    prefix = f"{name}." if name else ""
    return {
        other.removeprefix(prefix): said
        for other, said in found.items()
        if isinstance(said, Projection) and other.startswith(prefix)
    }


def _problems(module: nn.Module, said: Adaptation, projections: Mapping[str, Projection]) -> Iterator[str]:
    """What cannot be as an adapter says it is; only the first is looked for, since others may follow from it."""
    match said:
        case Units():
            yield from _units_problems(module, said, projections)
        case Projection():
            yield from _projection_problems(module, said)
        case Concatenation():
            yield from (f"names a part {part!r} that is not there" for part in _missing(module, said.parts))
            if not said.parts:
                yield "names no parts"


def _missing(module: nn.Module, names: tuple[str, ...]) -> list[str]:
    there = {name for name, _ in module.named_modules()}
    return [name for name in names if name not in there]


def _units_problems(module: nn.Module, units: Units, projections: Mapping[str, Projection]) -> Iterator[str]:
    if units.count < 1:
        yield f"says that there are {units.count} units"
    if not units.produced_by or not units.read_by:
        yield "must name a layer that produces the units and one that reads them"
    yield from (
        f"names a layer {name!r} that is not there" for name in _missing(module, (*units.produced_by, *units.read_by))
    )
    for name, copies in (*units.produced_by.items(), *((name, 1) for name in units.read_by)):
        layer, projection = module.get_submodule(name), projections.get(name)
        if not is_product(layer, projection, copies):
            continue  # no fault of the adapter: the units stay as they are
        sizes = layer_sizes(layer, projection)
        size, side = (sizes.outputs, "outputs") if name in units.produced_by else (sizes.inputs, "inputs")
        if copies < 1 or size % (copies * units.count):
            yield f"says that the {size} {side} of {name!r} are {copies} x {units.count} units, which does not divide"
    for name in units.attributes:
        value = module.__dict__.get(name)
        if type(value) is not int or value % units.count:
            yield f"names an attribute {name!r} that is {value!r}: it must be a multiple of the {units.count} units"


def _projection_problems(module: nn.Module, said: Projection) -> Iterator[str]:
    weight, bias = (module._parameters.get(name) for name in ("weight", "bias"))  # noqa: SLF001 (not computed ones)
    if weight is None or weight.dim() != 2:
        yield "says that it is a projection, but it has no parameter 'weight' that is a matrix"
        return
    outputs, inputs, _ = layer_sizes(module, said)
    if bias is not None and tuple(bias.shape) != (outputs,):
        yield f"says that it has {outputs} outputs, but its bias is {tuple(bias.shape)}: is the weight transposed?"
    for names, size in ((said.counts_outputs, outputs), (said.counts_inputs, inputs)):
        for name in names:
            if module.__dict__.get(name) != size:
                yield f"names an attribute {name!r} that is {module.__dict__.get(name)!r}, not {size}"
