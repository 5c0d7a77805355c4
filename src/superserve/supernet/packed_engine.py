"""The packed engine: resident subnets run from packed weights where that is faster, all else on the engine behind."""

import sys
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from superserve.engine import PACKED, Engine
from superserve.errors import ModelFolderError
from superserve.model_folder import ModelFolder, TensorSpec
from superserve.supernet.engine import as_tensor
from superserve.supernet.packed.module import PackedModule, SharedParts
from superserve.supernet.packed_store import PackRecord, pack_path, read_record
from superserve.supernet.reduced import load_supernet_in


class Module(Protocol):
    """A packed subnet that is mapped."""

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Request tensors, contiguous, to outputs."""

    def close(self) -> None:
        """Give the mapping back; it cannot be run any more."""


class Mapped(NamedTuple):
    """A packed subnet, and at which batch sizes it is faster than what is behind it; None: it runs them all."""

    module: Module
    record: PackRecord | None = None

    def runs(self, rows: int) -> bool:
        """Whether a batch of this size is its own."""
        return self.record is None or self.record.ratio(rows) < 1


class PackedEngine:
    """Runs any subnet of a front, resident ones faster; see `superserve.engine.ResidentEngine`.

    A call of one of oneDNN's operators takes torch some 20 µs before it computes. Where compiled code is behind, small
    batches of small subnets are faster there, large ones packed: each batch runs where it was faster when timed.

    Args:
        behind: runs what is not resident.
        load: maps a packed subnet, by its front index.
        inputs: the tensors of a request.
    """

    name: Final = PACKED

    def __init__(self, behind: Engine, load: Callable[[int], Mapped], inputs: Sequence[TensorSpec]) -> None:
        self.dtype: Final = behind.dtype
        self.subnet_ids: Final = behind.subnet_ids
        self._behind = behind
        self._load = load
        self._inputs = inputs
        self._datatypes = [tensor.datatype for tensor in inputs]
        self._mapped: dict[int, Mapped] = {}

    @classmethod
    def load(cls, folder: ModelFolder, behind: Engine, *, always: bool = False) -> "PackedEngine":
        """An engine for a model, with nothing resident yet.

        Args:
            folder: the model.
            behind: runs what is not resident.
            always: have resident subnets run every batch, not only those at which they are faster.

        Raises:
            ModelFolderError: if the model folder cannot be loaded.
        """
        shared = SharedParts.of(folder, load_supernet_in(folder, behind.dtype))

        def load(subnet: int) -> Mapped:
            path = pack_path(folder, behind.dtype, subnet)
            record = read_record(path)
            # Of one that was timed beside another engine nothing is known here.
            timed = record.behind == behind.name and not always
            return Mapped(PackedModule.load(path, shared), record if timed else None)

        return cls(behind, load, folder.config.inputs)

    def reside(self, subnets: Sequence[int]) -> tuple[int, ...]:
        """See `ResidentEngine.reside`."""
        for subnet in self._mapped.keys() - set(subnets):
            self._mapped.pop(subnet).module.close()
        for subnet in subnets:
            if subnet not in self._mapped:
                self._map(subnet)
        return tuple(subnet for subnet in subnets if subnet in self._mapped)

    def actuate(self, subnet: int) -> None:
        """See `Engine.actuate`; a resident subnet that does not run packed is actuated by `run` behind."""
        if subnet not in self._mapped:
            self._behind.actuate(subnet)

    @torch.inference_mode()
    def run(self, subnet: int, inputs: Sequence[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        """See `Engine.run`."""
        mapped = self._mapped.get(subnet)
        if mapped is None or not mapped.runs(len(inputs[0])):
            return self._behind.run(subnet, inputs)
        return self._run(mapped.module, inputs)

    def _run(self, module: Module, inputs: Sequence[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        tensors = [as_tensor(*item) for item in zip(inputs, self._datatypes, strict=True)]
        return [output.numpy() for output in module.run(tensors)]

    def _map(self, subnet: int) -> None:
        """Map a subnet and run a row: what cannot be run must not be found out by a request."""
        try:
            mapped = self._load(subnet)
            self._run(mapped.module, [tensor.longest(1) for tensor in self._inputs])
            self._mapped[subnet] = mapped
        except (ModelFolderError, RuntimeError, ValueError) as error:
            sys.stderr.write(f"subnet {self.subnet_ids[subnet]} cannot be made resident: {error}\n")
