"""One example forward, watched: channel groups, residual blocks, and where the model looks at values.

The trace needs neither torch.fx nor torch.export: a `TorchFunctionMode` sees every torch function as the model's own
Python runs, and hooks say which module is running.
"""

import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from superserve.errors import ConversionError
from superserve.supernet.conversion import families as _families  # noqa: F401 (registers its adapters)
from superserve.supernet.conversion import shapes as _shapes  # noqa: F401 (registers its rules)
from superserve.supernet.conversion.adaptations import Concatenation, Projection, Units
from superserve.supernet.conversion.adapters import adaptations_of
from superserve.supernet.conversion.arguments import stream_argument, tensors, with_operands
from superserve.supernet.conversion.layers import LAYER_RULES, joined, projected
from superserve.supernet.conversion.operand import Call, Dims, Frame, Info, Operand, Owner
from superserve.supernet.conversion.paths import paths_of
from superserve.supernet.conversion.rules import RULES
from superserve.supernet.conversion.trace import Branch, Candidate, Trace

#: Functions that answer with a truth value of the tensor's content: the model branches on it.
_BRANCHES: Final = frozenset({"bool", "is_nonzero", "contains", "equal", "allclose"})
#: Functions that hand the tensor's content to Python.
_READS: Final = frozenset({"item", "int", "float", "index", "complex", "tolist", "numpy", "array"})
#: Of the names above, those that are also ordinary casts when they are methods without underscores.
_CASTS: Final = frozenset({"bool", "int", "float"})
#: Functions that multiply by matrices, and that no rule takes for a layer.
_PRODUCTS: Final = frozenset({"addmm", "addbmm", "baddbmm", "matmul", "rmatmul", "mm", "bmm", "einsum", "tensordot"})


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
        self._trace = Trace(adaptations=adaptations_of(model))
        self._parts = {
            f"{name}.{part}" if name else part
            for name, said in self._trace.adaptations.items()
            if isinstance(said, Concatenation)
            for part in said.parts
        }

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
            keyword, x = stream_argument(args, kwargs)
            self._trace.calls.append((name, tuple(x.shape) if x is not None else ()))
            if x is not None:
                frame = Frame(name, keyword)
                self._info(x).paths[frame] = False
        self._stack.append((name, frame))
        said = self._trace.adaptations.get(name)
        if isinstance(said, Units) and not self._quiet:
            self._trace.units[name] = said
            self._fix(tensors((args, kwargs)), f"{name} is treated as a whole by its adapter")
        self._quiet += self._quiet > 0 or isinstance(said, Units | Projection)

    def _leave(
        self, _name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: object
    ) -> None:
        name, frame = self._stack.pop()
        self._quiet -= self._quiet > 0
        if not self._quiet:
            self._apply(name, module, args, kwargs, output)
        if frame is not None:
            self._note_candidate(name, frame, args, kwargs, output)

    def _apply(
        self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: object
    ) -> None:
        """Do what the module's adapter says to the groups of its output."""
        said = self._trace.adaptations.get(name)
        if name in self._parts and isinstance(output, Tensor):
            self._trace.sizes[name] = tuple(output.shape)
        if isinstance(said, Projection):
            _, x = stream_argument(args, kwargs)
            if x is None or not isinstance(output, Tensor):
                raise ConversionError(
                    f"the adapter of {name} says that it is a projection: it must map one tensor to one"
                )
            others = (tensor for tensor in tensors((args, kwargs)) if tensor is not x)
            self._fix(others, f"{name}, a projection by its adapter, takes it beside its input")
            call = Call("a projection", name, (self._operand(x),), {}, (tuple(output.shape),))
            self._info(output).dims = projected(self._trace.layers, call, module, said)
        elif isinstance(said, Concatenation):
            if not isinstance(output, Tensor):
                raise ConversionError(f"the adapter of {name} says that it concatenates: it must answer with a tensor")
            join = joined(name, said, self._trace.sizes, tuple(output.shape))
            if name in self._trace.joins:
                join.group.fix(f"{name} is called more than once")
                self._trace.joins[name].group.fix(f"{name} is called more than once")
            self._trace.joins[name] = join
            info = self._info(output)
            info.dims = [join.group if dim == join.dim else group for dim, group in enumerate(info.dims)]

    def _fix(self, found: Iterable[Tensor], reason: str) -> None:
        for tensor in found:
            self._operand(tensor).fix(reason)

    def _note_candidate(
        self, name: str, frame: Frame, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: object
    ) -> None:
        """Note a module whose output is its input plus something."""
        single = output if isinstance(output, Tensor) else None
        if isinstance(output, tuple) and output and isinstance(output[0], Tensor):
            single = output[0] if next(tensors(output[1:]), None) is None else None
        _, x = stream_argument(args, kwargs)
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
        seen = (with_operands(args, self._operand), with_operands(kwargs, self._operand))
        output = func(*args, **kwargs)
        results = [output] if isinstance(output, Tensor) else list(tensors(output))
        where = self._stack[-1][0] if self._stack else ""
        call = Call(name, where, *seen, shapes=tuple(tuple(result.shape) for result in results))
        operands = call.operands
        if not operands or (not results and name != "setitem"):
            return output
        all_dims = self._dims(call, operands)
        paths = paths_of(call, operands)
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
                self._note_unknown(call, operand, operand.owner)
        self._note_reshapes(call, operands, found)
        return found

    def _note_unknown(self, call: Call, operand: Operand, owner: Owner) -> None:
        if call.name in _PRODUCTS and len(operand.shape) > 1 and owner.module:
            what = f"{owner.name} {' x '.join(map(str, operand.shape))}"
            reason = (
                f"{call.name} in {call.place} multiplies by it, and it is not known which of its dimensions are "
                "outputs and which inputs; if it is a layer that computes x W + b, an adapter can say so"
            )
            self._trace.unknown.setdefault(owner.module, (what, reason))

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
