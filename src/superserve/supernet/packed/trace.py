"""From a subnet of a model folder to its graph."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from torch import Tensor

from superserve.model_folder import BYTES, ModelFolder
from superserve.supernet.aot import EXAMPLE_ROWS, trace, without_writes
from superserve.supernet.bound import BoundSubnet, bound_subnets
from superserve.supernet.compiled import module_tensors
from superserve.supernet.engine import as_tensor
from superserve.supernet.operators import SlicedConv2d
from superserve.supernet.packed.graph import Graph
from superserve.supernet.preprocess import parse_preprocessing
from superserve.supernet.reduced import load_supernet_in
from superserve.supernet.text import TextPreprocessing

_SEED: Final = 0


class Traced(NamedTuple):
    """A subnet's graph, and what it came of."""

    graph: Graph
    tensors: Mapping[str, Tensor]
    """The network's own parameters and buffers by name, which every worker has mapped."""
    takes: Literal["requests", "arguments"]
    """See `Program.takes`."""


def trace_subnet(folder: ModelFolder, subnet: int, dtype: str) -> Traced:
    """Trace a subnet of a front, by index, that computes in a dtype: float32 or bfloat16."""
    bound = _bound(folder, subnet, dtype)
    exact = bound if dtype == "float32" else _bound(folder, subnet, "float32")
    example, tokens = _example(folder)
    graph = graph_of(bound, exact, example, tokens=tokens)
    return Traced(graph, module_tensors(bound.network), "arguments" if _is_text(folder) else "requests")


def graph_of(bound: BoundSubnet, exact: BoundSubnet, example: Sequence[Tensor], *, tokens: int = 0) -> Graph:
    """The graph of a subnet, good for every number of rows.

    Args:
        bound: the subnet.
        exact: the same in float32, for the values of what is packed.
        example: inputs, `EXAMPLE_ROWS` rows each.
        tokens: as for `trace`.
    """
    for module in bound.modules():
        if isinstance(module, SlicedConv2d):
            module.as_torch = True  # one operator for all convolutions: which computes them is chosen later
    program = without_writes(trace(bound, tuple(example), tokens=tokens))
    return Graph(program, module_tensors(bound), module_tensors(exact))


def graph_inputs(folder: ModelFolder, arrays: Sequence[np.ndarray[Any, Any]]) -> list[Tensor]:
    """Arrays of a request, as the graph of a subnet takes them: texts come preprocessed (`Program.takes`)."""
    tensors = [as_tensor(array, spec.datatype) for array, spec in zip(arrays, folder.config.inputs, strict=True)]
    if not _is_text(folder):
        return tensors
    return list(parse_preprocessing(folder.config.preprocessing).build()(tensors))


def _bound(folder: ModelFolder, subnet: int, dtype: str) -> BoundSubnet:
    preprocess = _arguments if _is_text(folder) else None
    (bound,) = bound_subnets(load_supernet_in(folder, dtype), dtype, only=[subnet], preprocess=preprocess)
    return bound


def _arguments(inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """In place of preprocessing that cannot be traced: it comes before the program."""
    return tuple(inputs)


def _is_text(folder: ModelFolder) -> bool:
    return any(tensor.datatype == BYTES for tensor in folder.config.inputs)


def _example(folder: ModelFolder) -> tuple[list[Tensor], int]:
    """Inputs to trace with, and the most tokens if their number is open."""
    arrays = folder.example_inputs(EXAMPLE_ROWS, np.random.default_rng(_SEED))
    preprocessing = parse_preprocessing(folder.config.preprocessing)
    lengths = preprocessing.lengths if isinstance(preprocessing, TextPreprocessing) else ()
    return graph_inputs(folder, arrays), lengths[-1] if len(lengths) > 1 else 0
