"""A packed subnet, mapped and run."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from superserve.errors import ModelFolderError
from superserve.model_folder import ModelFolder
from superserve.supernet.compiled import module_tensors
from superserve.supernet.network import Supernet
from superserve.supernet.packed import operators
from superserve.supernet.packed.memory import MappedWeights
from superserve.supernet.packed.program import (
    WEIGHTS_FILE,
    Argument,
    Named,
    Packed,
    Plain,
    Program,
    Ref,
    Shared,
    read_program,
)
from superserve.supernet.preprocess import Preprocessor, parse_preprocessing


class SharedParts(NamedTuple):
    """What all packed subnets of a model have in common, in a process."""

    model_hash: str
    tensors: Mapping[str, Tensor]
    """The network's parameters and buffers by name: views of the model's mapped file."""
    preprocess: Preprocessor

    @classmethod
    def of(cls, folder: ModelFolder, supernet: Supernet) -> "SharedParts":
        """Of a supernet that was loaded in the dtype that the subnets are packed in (`load_supernet_in`)."""
        preprocess = parse_preprocessing(supernet.config.preprocessing).build()
        return cls(folder.model_hash, module_tensors(supernet.network), preprocess)


class _Call(NamedTuple):
    """One step, ready to be run."""

    function: Callable[..., Any]
    fetch: Callable[[list[Any]], Sequence[Any]]
    """The arguments, out of the list of all values."""
    place: int
    dead: Sequence[int]


class PackedModule:
    """Runs one packed subnet; not thread-safe.

    Args:
        program: its steps.
        weights: its mapped weights.
        shared: of its model.

    Raises:
        ModelFolderError: if the program names an operator or a tensor that there is not.
    """

    def __init__(self, program: Program, weights: MappedWeights, shared: SharedParts) -> None:
        self.nbytes: Final = program.nbytes
        """Bytes of memory that this subnet takes on the machine, beside the one copy of the weights."""
        self._weights: MappedWeights | None = weights
        self._preprocess = shared.preprocess if program.takes == "arguments" else None
        self._values: list[Any] = [None] * program.inputs
        self._values += [_constant(constant, weights, shared) for constant in program.constants]
        self._values += [None] * len(program.steps)
        self._calls = tuple(self._prepared(program))
        self._outputs = program.outputs

    @classmethod
    def load(cls, path: Path, shared: SharedParts) -> "PackedModule":
        """Map a packed subnet; milliseconds.

        Raises:
            ModelFolderError: if its files may not be used, saying why.
        """
        program = read_program(path, shared.model_hash)
        try:
            return cls(program, MappedWeights(path / WEIGHTS_FILE, program.nbytes), shared)
        except (KeyError, ValueError, RuntimeError, AttributeError) as error:
            raise ModelFolderError(f"{path}: not a packed subnet of this model: {error!r}") from None

    @torch.inference_mode()
    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Request tensors, contiguous, to outputs."""
        values = self._values.copy()
        arguments = inputs if self._preprocess is None else self._preprocess(inputs)
        values[: len(arguments)] = arguments
        for function, fetch, place, dead in self._calls:
            values[place] = function(*fetch(values))
            for number in dead:
                values[number] = None
        return [values[number] for number in self._outputs]

    def close(self) -> None:
        """Give the mapping back; the subnet cannot be run any more."""
        self._calls, self._values, self._weights = (), [], None

    def _prepared(self, program: Program) -> Iterator[_Call]:
        """The steps; what they take that is no value of the program becomes one, so that all is fetched alike."""
        first = program.inputs + len(program.constants)
        for place, step in enumerate(program.steps, first):
            numbers = [it.number if isinstance(it, Ref) else self._literal(it) for it in step.arguments]
            yield _Call(operators.function(step.operator), _fetch(numbers), place, step.dead)

    def _literal(self, argument: Argument) -> int:
        self._values.append(_torch(argument.name) if isinstance(argument, Named) else argument)
        return len(self._values) - 1


def _fetch(numbers: Sequence[int]) -> Callable[[list[Any]], Sequence[Any]]:
    if len(numbers) > 1:
        return itemgetter(*numbers)
    # Of one index, `itemgetter` gives the item itself, not a tuple: of a slice, a list.
    return itemgetter(slice(numbers[0], numbers[0] + 1) if numbers else slice(0))


def _constant(constant: Shared | Plain | Packed, weights: MappedWeights, shared: SharedParts) -> Tensor:
    if not isinstance(constant, Shared):
        return weights.tensor(constant)
    whole = shared.tensors[constant.tensor]
    return whole.as_strided(constant.shape, constant.stride, whole.storage_offset() + constant.offset)


def _torch(name: str) -> Any:  # noqa: ANN401 (of three types)
    found = getattr(torch, name)
    if not isinstance(found, torch.dtype | torch.memory_format | torch.layout):
        raise ModelFolderError(f"torch.{name} is nothing that a program may name")
    return found
