"""From a graph to a program and its weights file."""

import operator
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, fx
from torch._ops import OpOverload

from superserve.errors import ConfigError
from superserve.supernet.packed import operators
from superserve.supernet.packed.graph import Graph, arguments_of
from superserve.supernet.packed.memory import WeightsWriter
from superserve.supernet.packed.program import Argument, Constant, Named, Ref, Shared, Step, refs

_PYTHON: Final[Mapping[Any, str]] = {
    operator.add: "add",
    operator.sub: "sub",
    operator.mul: "mul",
    operator.floordiv: "floordiv",
    operator.mod: "mod",
    operator.getitem: "getitem",
}


class Lowering:
    """Numbers the values of a graph, and writes its constants down.

    Args:
        graph: what to lower.
        tensors: the model's own, by name: views of them are not stored.
        weights: the file for all other constants.

    Raises:
        ConfigError: for an operator or a constant that a program cannot hold.
    """

    def __init__(self, graph: Graph, tensors: Mapping[str, Tensor], weights: Path) -> None:
        self.constants: Final[list[Constant]] = []
        self.steps: Final[list[Step]] = []
        self._numbers: dict[fx.Node, int] = {node: number for number, node in enumerate(graph.inputs)}
        self._tensors = tensors
        self._writer = WeightsWriter(weights)
        nodes = list(graph.graph.nodes)
        for node in nodes:
            if node in graph.values:
                self._numbers[node] = len(self._numbers)
                self.constants.append(self._constant(graph.values[node]))
        self.nbytes: Final = self._writer.close()
        self._count = len(self._numbers)
        for node in nodes:
            if node.op == "call_function" and node not in graph.values:
                self._call(node)
        self.outputs: Final = [self._numbers[node] for node in graph.outputs]
        self._bury()

    def _constant(self, tensor: Tensor) -> Constant:
        if tensor.layout == torch.strided:
            for name, whole in self._tensors.items():
                inside = tensor.data_ptr() - whole.data_ptr()
                if tensor.dtype == whole.dtype and 0 <= inside < whole.nbytes and tensor.numel():
                    offset = inside // tensor.dtype.itemsize
                    return Shared(tensor=name, shape=list(tensor.shape), stride=list(tensor.stride()), offset=offset)
        return self._writer.add(tensor)

    def _call(self, node: fx.Node) -> None:
        name = _name(node.target)
        if not operators.known(name):
            raise ConfigError(
                f"operator {name} is not one that a packed program may hold: serve this model with another engine"
            )
        arguments = [self._argument(argument) for argument in arguments_of(node)]
        self._numbers[node] = self._step(name, arguments)

    def _step(self, name: str, arguments: list[Argument]) -> int:
        self.steps.append(Step(name, arguments, []))
        self._count += 1
        return self._count - 1

    def _argument(self, value: Any) -> Argument:  # noqa: ANN401 (whatever a graph holds)
        if isinstance(value, fx.Node):
            return Ref(self._numbers[value])
        if isinstance(value, tuple | list):
            items = [self._argument(item) for item in value]
            if any(isinstance(item, Ref) for item in items):
                return Ref(self._step("packed.listed", items))
            return items  # type: ignore[return-value]
        if isinstance(value, torch.dtype | torch.memory_format | torch.layout):
            return Named(str(value).removeprefix("torch."))
        if isinstance(value, torch.device):
            return None
        if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and _is_json(value)):
            return value
        raise ConfigError(f"an argument {value!r} is nothing that a packed program may hold: serve with another engine")

    def _bury(self) -> None:
        """Note behind each step the values that it was the last to read, and its own if nothing reads that."""
        first = self._count - len(self.steps)
        last = {first + place: place for place in range(len(self.steps))}
        for place, step in enumerate(self.steps):
            last |= dict.fromkeys((number for number in refs(step) if number in last), place)
        for number, place in last.items():
            if number not in self.outputs:
                self.steps[place].dead.append(number)


def _name(target: Any) -> str:  # noqa: ANN401 (a node's)
    if isinstance(target, OpOverload):
        return str(target)
    if target in _PYTHON:
        return f"python.{_PYTHON[target]}"
    return f"packed.{getattr(target, '__name__', target)}"


def _is_json(value: float) -> bool:
    return value == value and abs(value) != float("inf")  # noqa: PLR0124 (nan)
