"""The packed engine: resident subnets run from packed weights or in a static runtime where that is faster.

All else runs on the engine behind.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import msgspec
import numpy as np

from superserve.engine import PACKED, Engine
from superserve.model_folder import ModelFolder, TensorSpec
from superserve.supernet.engine import as_tensor
from superserve.supernet.packed.module import PackedModule, SharedParts
from superserve.supernet.packed.program import read_program
from superserve.supernet.packed_store import PackRecord, check_runtimes, pack_path, read_record
from superserve.supernet.reduced import load_supernet_in
from superserve.supernet.runtimes.contest import PROGRAM
from superserve.supernet.runtimes.module import RuntimeModule

Arrays = Sequence[np.ndarray[Any, Any]]


class Module(Protocol):
    """A subnet that is in memory, ready to be run; not thread-safe."""

    def run(self, inputs: Arrays) -> list[np.ndarray[Any, Any]]:
        """Request arrays, contiguous, to outputs, which may be overwritten by the next call."""

    def close(self) -> None:
        """Give its memory back; it cannot be run any more."""


class ProgramModule:
    """A packed program as a `Module`.

    Args:
        module: it, mapped.
        datatypes: of the request's tensors, as ``config.json`` has them.
    """

    def __init__(self, module: PackedModule, datatypes: Sequence[str]) -> None:
        self._module = module
        self._datatypes = datatypes

    def run(self, inputs: Arrays) -> list[np.ndarray[Any, Any]]:
        """See `Module.run`."""
        tensors = [as_tensor(*item) for item in zip(inputs, self._datatypes, strict=True)]
        return [output.numpy() for output in self._module.run(tensors)]

    def close(self) -> None:
        """See `Module.close`."""
        self._module.close()


class ModuleEngine:
    """One module as an `Engine`, whichever subnet it is asked for: what is checked and timed when it is packed."""

    def __init__(self, name: str, dtype: str, subnet_ids: Sequence[str], module: Module) -> None:
        self.name = name
        self.dtype = dtype
        self.subnet_ids = tuple(subnet_ids)
        self._module = module

    def actuate(self, subnet: int) -> None:
        """Nothing is to be set."""

    def run(self, subnet: int, inputs: Arrays) -> list[np.ndarray[Any, Any]]:  # noqa: ARG002 (see above)
        """See `Engine.run`."""
        return self._module.run(inputs)


class Mapped(NamedTuple):
    """A resident subnet."""

    modules: Mapping[str, Module]
    """All that runs it, by name: its program, a static runtime, or both."""
    record: PackRecord | None = None
    """What runs which batch sizes; None: its program runs all."""

    def module(self, rows: int) -> Module | None:
        """What runs a batch; None: what is behind."""
        if self.record is None:
            return self.modules[PROGRAM]
        name = self.record.module(rows)
        return None if name is None else self.modules[name]

    def close(self) -> None:
        """Give back what it takes."""
        for module in self.modules.values():
            module.close()


class Loader(NamedTuple):
    """Loads what runs packed subnets of a model, in a process."""

    dtype: str
    """What they were packed in."""
    datatypes: tuple[str, ...]
    """Of the request's tensors, as ``config.json`` has them."""
    shared: SharedParts

    @classmethod
    def of(cls, folder: ModelFolder, dtype: str) -> "Loader":
        """For a model, computing in a dtype.

        Raises:
            ModelFolderError: if the model folder cannot be loaded.
        """
        datatypes = tuple(tensor.datatype for tensor in folder.config.inputs)
        return cls(dtype, datatypes, SharedParts.of(folder, load_supernet_in(folder, dtype)))

    def module(self, name: str, path: Path) -> Module:
        """What runs the packed subnet in a folder: `PROGRAM`, or a static runtime.

        Raises:
            ModelFolderError: if it may not be used, or cannot be loaded.
        """
        if name == PROGRAM:
            return ProgramModule(PackedModule.load(path, self.shared), self.datatypes)
        before = read_program(path, self.shared.model_hash).takes == "arguments"
        return RuntimeModule.load(name, self.dtype, path, self.datatypes, self.shared.preprocess if before else None)

    def mapped(self, path: Path, behind: str, *, always: bool = False) -> Mapped:
        """All that runs it; of one that was timed beside another engine its program, of which nothing is known here.

        Args:
            path: the folder.
            behind: the engine that runs other batches.
            always: have it run all batches, each on the fastest of what it has.

        Raises:
            ModelFolderError: as `module`.
        """
        record = read_record(path)
        if record.behind != behind:
            return Mapped({PROGRAM: self.module(PROGRAM, path)})
        check_runtimes(path, record)
        if always:
            record = msgspec.structs.replace(record, ratios=(0.0,) * len(record.ratios))
        return Mapped({name: self.module(name, path) for name in record.modules}, record)


class PackedEngine:
    """Runs any subnet of a front, resident ones faster; see `superserve.engine.ResidentEngine`.

    A call of one of oneDNN's operators takes torch some 20 µs before it computes, which compiled code and static
    runtimes do not pay at each call. So each batch of a resident subnet runs where its size was fastest when timed.

    Args:
        behind: runs what is not resident.
        load: maps a packed subnet, by its front index.
        inputs: the tensors of a request.
        dtype: of packed subnets; by default that of the engine behind.
    """

    name: Final = PACKED

    def __init__(
        self, behind: Engine, load: Callable[[int], Mapped], inputs: Sequence[TensorSpec], dtype: str | None = None
    ) -> None:
        self.dtype: Final = dtype or behind.dtype
        self.subnet_ids: Final = behind.subnet_ids
        self._behind = behind
        self._load = load
        self._inputs = inputs
        self._mapped: dict[int, Mapped] = {}

    @classmethod
    def load(
        cls, folder: ModelFolder, behind: Engine, dtype: str | None = None, *, always: bool = False
    ) -> "PackedEngine":
        """An engine for a model, with nothing resident yet.

        Args:
            folder: the model.
            behind: runs what is not resident.
            dtype: what subnets are packed in; by default that of the engine behind.
            always: have resident subnets run every batch, not only those at which they are faster.

        Raises:
            ModelFolderError: if the model folder cannot be loaded.
        """
        loader = Loader.of(folder, dtype or behind.dtype)

        def load(subnet: int) -> Mapped:
            return loader.mapped(pack_path(folder, loader.dtype, subnet), behind.name, always=always)

        return cls(behind, load, folder.config.inputs, loader.dtype)

    def reside(self, subnets: Sequence[int]) -> tuple[int, ...]:
        """See `ResidentEngine.reside`."""
        for subnet in self._mapped.keys() - set(subnets):
            self._mapped.pop(subnet).close()
        for subnet in subnets:
            if subnet not in self._mapped:
                self._map(subnet)
        return tuple(subnet for subnet in subnets if subnet in self._mapped)

    def actuate(self, subnet: int) -> None:
        """See `Engine.actuate`; a resident subnet that does not run packed is actuated by `run` behind."""
        if subnet not in self._mapped:
            self._behind.actuate(subnet)

    def run(self, subnet: int, inputs: Arrays) -> list[np.ndarray[Any, Any]]:
        """See `Engine.run`."""
        mapped = self._mapped.get(subnet)
        module = None if mapped is None else mapped.module(len(inputs[0]))
        return self._behind.run(subnet, inputs) if module is None else module.run(inputs)

    def _map(self, subnet: int) -> None:
        """Map a subnet and run a row: what cannot be run must not be found out by a request."""
        try:
            mapped = self._load(subnet)
            for module in mapped.modules.values():
                module.run([tensor.longest(1) for tensor in self._inputs])
            self._mapped[subnet] = mapped
        except Exception as error:  # noqa: BLE001  (whatever it is: the subnet runs behind, and the worker lives)
            sys.stderr.write(f"subnet {self.subnet_ids[subnet]} cannot be made resident: {error}\n")
