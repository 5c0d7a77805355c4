"""One example forward, watched: channel groups, residual blocks, and where the model looks at values.

The trace needs neither torch.fx nor torch.export: a `TorchFunctionMode` sees every torch function as the model's own
Python runs, and hooks say which module is running.
"""

import traceback
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from superserve.errors import ConversionError
from superserve.supernet.conversion import shapes as _shapes  # noqa: F401 (registers its rules)
from superserve.supernet.conversion.adapters import Adaptation, adaptation_of
from superserve.supernet.conversion.groups import Group
from superserve.supernet.conversion.layers import LAYER_RULES, Layers
from superserve.supernet.conversion.operand import Call, Dims, Frame, Info, Operand, Owner
from superserve.supernet.conversion.rules import ACTIVATIONS, NORMS, RULES, SUMS, UNCHANGED, VIEWS

#: Functions that answer with a truth value of the tensor's content: the model branches on it.
_BRANCHES: Final = frozenset({"bool", "is_nonzero", "contains", "equal", "allclose"})
#: Functions that hand the tensor's content to Python.
_READS: Final = frozenset({"item", "int", "float", "index", "complex", "tolist", "numpy", "array"})
#: Of the names above, those that are also ordinary casts when they are methods without underscores.
_CASTS: Final = frozenset({"bool", "int", "float"})


@dataclass(frozen=True)
class Candidate:
    """A module whose output is its input plus something."""

    module: str
    keyword: str | None
    answers: int
    """Length of the tuple that it answers with, of which the first is the tensor; 0 for a tensor alone."""
    alone: bool
    """Whether it is called with its input and nothing else, and answers with a tensor."""
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Branch:
    """A place where the model asked for the truth of a tensor that depends on its input."""

    outcome: bool
    where: str


@dataclass
class Trace:
    """What one forward showed."""

    layers: Layers = field(default_factory=Layers)
    candidates: list[Candidate] = field(default_factory=list)
    calls: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)
    """Modules with parameters, in the order in which they were called, with their input's rank."""
    adapted: dict[str, Adaptation] = field(default_factory=dict)
    branches: list[Branch] = field(default_factory=list)
    foreign: dict[Owner, str] = field(default_factory=dict)
    """Parameters used by something else than their own layer."""
    reshapes: list[tuple[Group, str, int]] = field(default_factory=list)
    """Groups that a module's forward reshaped, with the size of the group's dimension afterwards."""
    output: Any = None


def trace(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    forced: Mapping[int, bool] | None = None,
) -> Trace:
    """Run the model once on an example and watch.

    Args:
        model: in evaluation mode.
        args: its positional arguments.
        kwargs: its keyword arguments.
        forced: outcomes to impose on branches, by their order.

    Raises:
        ConversionError: if the model hands values that depend on its input to Python.
    """
    tracer = _Tracer(model, forced or {})
    with torch.no_grad(), tracer:
        return tracer.run(args, kwargs)


class _Tracer(TorchFunctionMode):
    def __init__(self, model: nn.Module, forced: Mapping[int, bool]) -> None:
        super().__init__()
        self._model = model
        self._forced = forced
        self._infos: Any = WeakIdKeyDictionary()
        self._owners: Any = WeakIdKeyDictionary()
        for name, module in model.named_modules():
            own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
            for key, tensor in own:
                # A tensor with two owners belongs to neither: it cannot be sliced for one of them.
                self._owners[tensor] = Owner(name, key) if tensor not in self._owners else Owner("", "shared")
        self._stack: list[tuple[str, Frame | None]] = []
        self._quiet = 0
        self._trace = Trace()

    def run(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Trace:
        for tensor in tensors((args, kwargs)):
            self._infos[tensor] = Info([None] * tensor.dim(), tainted=True)
        with ExitStack() as hooks:
            for name, module in self._model.named_modules():
                before = module.register_forward_pre_hook(partial(self._enter, name), prepend=True, with_kwargs=True)
                after = module.register_forward_hook(partial(self._leave, name), with_kwargs=True)
                hooks.callback(before.remove)
                hooks.callback(after.remove)
            self._trace.output = self._model(*args, **kwargs)
        for tensor in tensors(self._trace.output):
            for group in self._info(tensor).dims:
                if group is not None:
                    group.fix("it is part of the model's output")
        return self._trace

    # Modules

    def _enter(self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        frame = None
        if name and next(module.parameters(), None) is not None:
            keyword, x = _stream_argument(args, kwargs)
            self._trace.calls.append((name, tuple(x.shape) if x is not None else ()))
            if x is not None:
                frame = Frame(name, keyword)
                self._info(x).paths[frame] = False
        self._stack.append((name, frame))
        adaptation = None if self._quiet else adaptation_of(module)
        if adaptation is not None:
            self._trace.adapted[name] = adaptation
            reason = f"{name} is treated as a whole by its adapter"
            for tensor in tensors((args, kwargs)):
                for group in self._info(tensor).dims:
                    if group is not None:
                        group.fix(reason)
        self._quiet += self._quiet > 0 or adaptation is not None

    def _leave(
        self, _name: str, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: object
    ) -> None:
        name, frame = self._stack.pop()
        self._quiet -= self._quiet > 0
        if frame is None:
            return
        single = output if isinstance(output, Tensor) else None
        if isinstance(output, tuple) and output and isinstance(output[0], Tensor):
            single = output[0] if next(tensors(output[1:]), None) is None else None
        _, x = _stream_argument(args, kwargs)
        if single is None or x is None or (single.shape, single.dtype) != (x.shape, x.dtype):
            return
        if self._info(single).paths.get(frame):
            answers = len(output) if isinstance(output, tuple) else 0
            alone = len(args) == 1 and not kwargs and not answers
            found = Candidate(name, frame.keyword, answers, alone, tuple(x.shape))
            self._trace.candidates.append(found)

    # Functions

    def __torch_function__(
        self,
        func: Any,  # noqa: ANN401 (torch's signature)
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        kwargs = kwargs or {}
        name, method = _name(func)
        if (name in _BRANCHES or name in _READS) and not (method and name in _CASTS):
            return self._read(name, func, args, kwargs)
        # What the arguments are must be noted first: a call in place changes them.
        seen = (_operands(args, self._operand), _operands(kwargs, self._operand))
        output = func(*args, **kwargs)
        results = [output] if isinstance(output, Tensor) else list(tensors(output))
        where = self._stack[-1][0] if self._stack else ""
        call = Call(name, where, *seen, shapes=tuple(tuple(result.shape) for result in results))
        operands = call.operands
        if not operands or (not results and name != "setitem"):
            return output
        all_dims = self._dims(call, operands)
        paths = _paths(call, operands)
        tainted = any(operand.info.tainted for operand in operands)
        for result, dims in zip(results, all_dims, strict=True):
            # Parameters stay as they are, also where something was written into them.
            if result not in self._owners:
                self._infos[result] = Info(dims, dict(paths), tainted)
        return output

    def _dims(self, call: Call, operands: Sequence[Operand]) -> list[Dims]:
        """The groups of a call's results, one list per result."""
        untagged: list[Dims] = [[None] * len(shape) for shape in call.shapes]
        tagged = any(group is not None for operand in operands for group in operand.dims)
        owned = [operand for operand in operands if operand.owner is not None]
        if self._quiet:
            return untagged
        found = untagged
        layer, rule = LAYER_RULES.get(call.name), RULES.get(call.name)
        try:
            if layer is not None and (tagged or owned):
                found = _each(layer(self._trace.layers, call), call)
            elif rule is not None and tagged:
                found = _each(rule(call), call)
            else:
                _fix(operands, f"{call.name} in {call.place} is not known to treat channels one by one")
        except _MISUNDERSTOOD:
            found = untagged
            _fix(operands, f"{call.name} in {call.place} is called in a form that is not understood")
        for operand in owned:
            if not operand.claimed and operand.owner is not None:
                self._trace.foreign.setdefault(operand.owner, f"{call.place} uses it in {call.name}")
        self._note_reshapes(call, operands, found)
        return found

    def _note_reshapes(self, call: Call, operands: Sequence[Operand], found: list[Dims]) -> None:
        if call.name not in {"view", "reshape", "unflatten"} or not found:
            return
        for group, size in zip(found[0], call.shape, strict=True):
            if group is not None and size not in operands[0].shape:
                self._trace.reshapes.append((group, call.where, size))

    def _read(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
        """The model looks at a tensor's content: fine for constants, not for what depends on the input."""
        answer = func(*args, **kwargs)
        if not any(self._info(tensor).tainted for tensor in tensors((args, kwargs))):
            return answer
        if not isinstance(answer, bool):
            raise ConversionError(
                f"the model hands a tensor's values to Python ({name} {_line()}), so that what it computes may depend "
                "on the data: compute with tensors there, or convert the part of the model without it"
            )
        number = len(self._trace.branches)
        self._trace.branches.append(Branch(answer, _line()))
        return self._forced.get(number, answer)

    # Tensors

    def _info(self, tensor: Tensor) -> Info:
        found = self._infos.get(tensor)
        if found is None:
            found = self._infos[tensor] = Info([None] * tensor.dim())
        return found  # type: ignore[no-any-return]

    def _operand(self, tensor: Tensor) -> Operand:
        info = self._info(tensor)
        return Operand(tuple(tensor.shape), Info(list(info.dims), dict(info.paths), info.tainted), self._owner(tensor))

    def _owner(self, tensor: Tensor) -> Owner | None:
        return self._owners.get(tensor)  # type: ignore[no-any-return]


#: What a rule raises on a form of call that it was not written for.
_MISUNDERSTOOD: Final = (AssertionError, AttributeError, IndexError, KeyError, TypeError, ValueError)


def _each(dims: Dims | list[Dims], call: Call) -> list[Dims]:
    """A rule's answer as one list per result."""
    found: list[Dims] = dims if dims and isinstance(dims[0], list) else [dims] * len(call.shapes)  # type: ignore[list-item]
    for shape, result in zip(call.shapes, found, strict=True):
        assert len(shape) == len(result)
    return found


def _fix(operands: Sequence[Operand], reason: str) -> None:
    for operand in operands:
        operand.fix(reason)


def _name(func: Any) -> tuple[str, bool]:  # noqa: ANN401 (any torch function)
    """A function's name without in-place and operator underscores, and whether it had none around it."""
    name: str = getattr(func, "__name__", str(func))
    if name in {"__get__", "__set__"}:
        return f"{name.strip('_')}:{getattr(func.__self__, '__name__', '?')}", False
    if isinstance(func, torch._ops.OpOverload | torch._ops.OpOverloadPacket):  # noqa: SLF001 (no public name)
        space = str(func).partition(".")[0]
        return (name.split(".", maxsplit=1)[0].strip("_"), False) if space == "aten" else (str(func), False)
    return name.strip("_"), not name.startswith("__")


def _paths(call: Call, operands: Sequence[Operand]) -> dict[Frame, bool]:
    """Which modules' inputs reach the result, unchanged or with something added."""
    if call.name in SUMS:
        return _sum_paths(operands)
    paths = operands[0].info.paths
    if call.name in UNCHANGED or call.name in VIEWS:
        return dict(paths)
    if call.name in ACTIVATIONS or call.name in NORMS:
        return {frame: True for frame, added in paths.items() if added}
    return {}


def _sum_paths(operands: Sequence[Operand]) -> dict[Frame, bool]:
    paths: dict[Frame, bool] = {}
    for operand in operands:
        others = [other for other in operands if other is not operand and other.info.tainted]
        for frame, added in operand.info.paths.items():
            # x + x, or x plus a constant, is no residual; x + f(x) is.
            if added or any(frame not in other.info.paths for other in others):
                paths[frame] = True
    return paths


def _stream_argument(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[str | None, Tensor | None]:
    """The first tensor that a module was called with, and its name if it was passed by name."""
    if args:
        return None, args[0] if isinstance(args[0], Tensor) else None
    for name, value in kwargs.items():
        if isinstance(value, Tensor):
            return name, value
    return None, None


def _operands(tree: Any, make: Any) -> Any:  # noqa: ANN401 (any argument)
    """A copy of nested arguments with operands in place of tensors."""
    if isinstance(tree, Tensor):
        return make(tree)
    if isinstance(tree, torch.Size):
        return tuple(tree)
    if isinstance(tree, tuple | list):
        return type(tree)(_operands(item, make) for item in tree) if not hasattr(tree, "_fields") else tree
    if isinstance(tree, dict):
        return {key: _operands(item, make) for key, item in tree.items()}
    return tree


def tensors(tree: object) -> Iterator[Tensor]:
    """Every tensor in nested tuples, lists, mappings and data classes, in order."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, Mapping):
        for item in tree.values():
            yield from tensors(item)
    elif isinstance(tree, tuple | list):
        for item in tree:
            yield from tensors(item)
    elif is_dataclass(tree) and not isinstance(tree, type):
        yield from tensors(vars(tree))


def repeated_calls(found: Trace) -> set[str]:
    """Modules that were called more than once."""
    return {name for name, count in Counter(name for name, _ in found.calls).items() if count > 1}


_QUIET_FOLDERS: Final = (str(Path(torch.__file__).parent), str(Path(__file__).parent))


def _line() -> str:
    """The line of the model's code that is running, in words."""
    for entry in reversed(traceback.extract_stack()):
        if not entry.filename.startswith(_QUIET_FOLDERS):
            return f"in {Path(entry.filename).name}, line {entry.lineno}: `{(entry.line or '').strip()}`"
    return ""


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode for a while; each module's own mode is restored."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
