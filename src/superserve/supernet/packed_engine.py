"""The packed engine: resident subnets run from packed weights, the others on the engine behind it."""

import sys
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import numpy as np
import torch
from torch import Tensor

from superserve.engine import PACKED, Engine
from superserve.errors import ModelFolderError
from superserve.model_folder import ModelFolder, TensorSpec
from superserve.supernet.engine import as_tensor
from superserve.supernet.packed.module import PackedModule, SharedParts
from superserve.supernet.packed_store import pack_path
from superserve.supernet.reduced import load_supernet_in


class Module(Protocol):
    """A packed subnet that is mapped."""

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Request tensors, contiguous, to outputs."""

    def close(self) -> None:
        """Give the mapping back; it cannot be run any more."""


class PackedEngine:
    """Runs any subnet of a front, resident ones faster; see `superserve.engine.ResidentEngine`.

    Args:
        behind: runs what is not resident.
        load: maps a packed subnet, by its front index.
        inputs: the tensors of a request.
    """

    name: Final = PACKED

    def __init__(self, behind: Engine, load: Callable[[int], Module], inputs: Sequence[TensorSpec]) -> None:
        self.dtype: Final = behind.dtype
        self.subnet_ids: Final = behind.subnet_ids
        self._behind = behind
        self._load = load
        self._inputs = inputs
        self._datatypes = [tensor.datatype for tensor in inputs]
        self._modules: dict[int, Module] = {}

    @classmethod
    def load(cls, folder: ModelFolder, behind: Engine) -> "PackedEngine":
        """An engine for a model, with nothing resident yet.

        Raises:
            ModelFolderError: if the model folder cannot be loaded.
        """
        shared = SharedParts.of(folder, load_supernet_in(folder, behind.dtype))

        def load(subnet: int) -> PackedModule:
            return PackedModule.load(pack_path(folder, behind.dtype, subnet), shared)

        return cls(behind, load, folder.config.inputs)

    def reside(self, subnets: Sequence[int]) -> tuple[int, ...]:
        """See `ResidentEngine.reside`."""
        for subnet in self._modules.keys() - set(subnets):
            self._modules.pop(subnet).close()
        for subnet in subnets:
            if subnet not in self._modules:
                self._map(subnet)
        return tuple(subnet for subnet in subnets if subnet in self._modules)

    def actuate(self, subnet: int) -> None:
        """See `Engine.actuate`; nothing is to be set for a resident subnet."""
        if subnet not in self._modules:
            self._behind.actuate(subnet)

    @torch.inference_mode()
    def run(self, subnet: int, inputs: Sequence[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        """See `Engine.run`."""
        module = self._modules.get(subnet)
        if module is None:
            return self._behind.run(subnet, inputs)
        tensors = [as_tensor(*item) for item in zip(inputs, self._datatypes, strict=True)]
        return [output.numpy() for output in module.run(tensors)]

    def _map(self, subnet: int) -> None:
        """Map a subnet and run a row: what cannot be run must not be found out by a request."""
        try:
            self._modules[subnet] = self._load(subnet)
            self.run(subnet, [tensor.longest(1) for tensor in self._inputs])
        except (ModelFolderError, RuntimeError, ValueError) as error:
            self._modules.pop(subnet, None)
            sys.stderr.write(f"subnet {self.subnet_ids[subnet]} cannot be made resident: {error}\n")
