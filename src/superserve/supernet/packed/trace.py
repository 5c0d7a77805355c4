"""From a subnet of a model folder to its graph."""

from collections.abc import Sequence
from typing import Final, Literal

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

#: Where the parameters of a `BoundSubnet` begin that are the network's.
NETWORK: Final = "network."

_SEED: Final = 0


class Traced:
    """A subnet's graph, and what it came of.

    Args:
        folder: the model.
        subnet: its index in the front.
        dtype: what to compute in.

    Attributes:
        graph: what it computes, from request tensors, or from the network's arguments if ``takes`` says so.
        takes: see `Program.takes`.
        tensors: the network's own parameters and buffers by name, which every worker has mapped.
    """

    def __init__(self, folder: ModelFolder, subnet: int, dtype: str) -> None:
        bound = _bound(folder, subnet, dtype)
        exact = bound if dtype == "float32" else _bound(folder, subnet, "float32")
        self.takes: Literal["requests", "arguments"] = "arguments" if _is_text(folder) else "requests"
        example, tokens = _example(folder)
        program = without_writes(trace(bound, tuple(example), tokens=tokens))
        tensors = module_tensors(bound)
        self.graph = Graph(program, tensors, module_tensors(exact))
        self.tensors = {
            name.removeprefix(NETWORK): tensor for name, tensor in tensors.items() if name.startswith(NETWORK)
        }


def _bound(folder: ModelFolder, subnet: int, dtype: str) -> BoundSubnet:
    preprocess = _arguments if _is_text(folder) else None
    (bound,) = bound_subnets(load_supernet_in(folder, dtype), dtype, only=[subnet], preprocess=preprocess)
    for module in bound.modules():
        if isinstance(module, SlicedConv2d):
            module.as_torch = True  # one operator for all convolutions: which computes them is chosen later
    return bound


def _arguments(inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """In place of preprocessing that cannot be traced: it comes before the program."""
    return tuple(inputs)


def _is_text(folder: ModelFolder) -> bool:
    return any(tensor.datatype == BYTES for tensor in folder.config.inputs)


def _example(folder: ModelFolder) -> tuple[list[Tensor], int]:
    """Inputs to trace with, and the most tokens if their number is open."""
    arrays = folder.example_inputs(EXAMPLE_ROWS, np.random.default_rng(_SEED))
    tensors = [as_tensor(array, spec.datatype) for array, spec in zip(arrays, folder.config.inputs, strict=True)]
    preprocessing = parse_preprocessing(folder.config.preprocessing)
    if not isinstance(preprocessing, TextPreprocessing):
        return tensors, 0
    lengths = preprocessing.lengths
    return list(preprocessing.build()(tensors)), lengths[-1] if len(lengths) > 1 else 0
