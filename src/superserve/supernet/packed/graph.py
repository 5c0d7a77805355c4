"""A subnet as a graph of ATen's operators, and the constants that its nodes read."""

import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor, fx
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from superserve.supernet.aot import EXAMPLE_ROWS

aten: Final = torch.ops.aten

#: What traces leave of checks: nothing is computed from them.
_CHECKS: Final = frozenset({aten._assert_tensor_metadata.default, aten._assert_scalar.default})  # noqa: SLF001


class Graph:
    """A functional graph, whose constants are tensors.

    Args:
        program: a trace.
        tensors: the module's parameters and buffers by name, as the program is to read them.
        exact: the same in float32, from which weights are computed that are stored anew; so what is rounded to a
            smaller dtype is rounded once.

    Attributes:
        graph: the nodes; targets are ATen's operators, Python's on sizes, or functions of ``operators.py``.
        values: the constant that a node stands for.
        exact: the same, computed from float32.
        inputs: the nodes of the module's inputs.
    """

    def __init__(self, program: ExportedProgram, tensors: Mapping[str, Tensor], exact: Mapping[str, Tensor]) -> None:
        self.graph: Final = program.graph
        self.values: Final[dict[fx.Node, Tensor]] = {}
        self.exact: Final[dict[fx.Node, Tensor]] = {}
        self.inputs: Final[list[fx.Node]] = []
        places = [node for node in self.graph.nodes if node.op == "placeholder"]
        for node, spec in zip(places, program.graph_signature.input_specs, strict=True):
            if spec.kind is InputKind.USER_INPUT:
                self.inputs.append(node)
                continue
            name = spec.target
            assert name is not None
            value = tensors[name] if name in tensors else program.constants[name]
            self.values[node] = value
            self.exact[node] = exact.get(name, value)
        for node in list(self.graph.nodes):
            if node.target in _CHECKS:
                self.graph.erase_node(node)
        self._fold()

    @property
    def outputs(self) -> Sequence[fx.Node]:
        """What the module returns."""
        *_, last = self.graph.nodes
        (returned,) = last.args
        return tuple(returned)

    def calls(self, *targets: Any) -> Iterator[fx.Node]:  # noqa: ANN401 (operators)
        """The nodes that call one of some operators, in order; they may be replaced meanwhile."""
        wanted = frozenset(targets)
        return iter([node for node in self.graph.nodes if node.op == "call_function" and node.target in wanted])

    def constant(self, name: str, value: Tensor) -> fx.Node:
        """A further constant."""
        first = next(iter(self.graph.nodes))
        with self.graph.inserting_before(first):
            node: fx.Node = self.graph.create_node("placeholder", name, name=name)
        self.values[node] = self.exact[node] = value
        return node

    def replace(self, node: fx.Node, target: Any, arguments: tuple[Any, ...]) -> fx.Node:  # noqa: ANN401
        """Compute something else where a node stood; its old arguments go if nothing else reads them."""
        with self.graph.inserting_before(node):
            new: fx.Node = self.graph.call_function(target, arguments)
        new.meta = node.meta
        node.replace_all_uses_with(new)
        self.graph.erase_node(node)
        return new

    def follow(self, node: fx.Node, target: Any, arguments: tuple[Any, ...]) -> fx.Node:  # noqa: ANN401
        """Compute something right after a node, of whose shape it is."""
        with self.graph.inserting_after(node):
            new: fx.Node = self.graph.call_function(target, arguments)
        new.meta = node.meta
        return new

    def clean(self) -> None:
        """Take out what nothing reads."""
        for node in reversed(list(self.graph.nodes)):
            if not node.users and node.op != "output" and node not in self.inputs:
                self.graph.erase_node(node)
                self.values.pop(node, None)
                self.exact.pop(node, None)

    def _fold(self) -> None:
        """Compute what follows from constants alone; a view of a parameter stays one."""
        for node in self.graph.nodes:
            feeding = node.all_input_nodes
            if node.op != "call_function" or not feeding or not all(it in self.values for it in feeding):
                continue
            for known in (self.values, self.exact):
                found = _evaluate(node, known)
                if isinstance(found, Tensor):
                    known[node] = found
        self.clean()


def _evaluate(node: fx.Node, known: Mapping[fx.Node, Tensor]) -> Any:  # noqa: ANN401 (of whatever the operator gives)
    assert callable(node.target)
    args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), known.__getitem__)
    return node.target(*args, **kwargs)


def arguments_of(node: fx.Node) -> tuple[Any, ...]:
    """Every argument of a call in the order of its signature, defaults and those by name included."""
    if not isinstance(node.target, OpOverload):
        assert not node.kwargs
        return tuple(node.args)
    further = node.target._schema.arguments[len(node.args) :]  # noqa: SLF001 (torch has no public access to it)
    return (*node.args, *(node.kwargs.get(it.name, it.default_value) for it in further))


def size(value: int | torch.SymInt) -> int:
    """A size; of one that is open, what it was in the example."""
    return value if isinstance(value, int) else int(value.node.hint)


def shape(node: fx.Node) -> tuple[int, ...]:
    """A node's shape in the example."""
    return tuple(size(it) for it in node.meta["val"].shape)


def elements_per_row(node: fx.Node) -> float:
    """How many numbers a row of the batch makes of a node."""
    return torch.Size(shape(node)).numel() / EXAMPLE_ROWS


def order_of(graph: Graph) -> dict[fx.Node, int]:
    """The place of each node."""
    return {node: place for place, node in enumerate(graph.graph.nodes)}


def getitem(node: fx.Node, index: int) -> fx.Node | None:
    """The node that takes one of several results, if it is all that is taken."""
    users = list(node.users)
    if len(users) == 1 and users[0].target is operator.getitem and users[0].args[1] == index:
        return users[0]
    return None
