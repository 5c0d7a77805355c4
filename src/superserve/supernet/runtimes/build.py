"""Bring a subnet into static runtimes, and see that each of them computes what eager float32 does."""

import shutil
import tempfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch

from superserve.errors import ModelFolderError, SuperServeError
from superserve.model_folder import ModelFolder
from superserve.supernet.accuracy import TOLERANCE, check_subnet, relative_error
from superserve.supernet.engine import EagerEngine
from superserve.supernet.hub import load_supernet
from superserve.supernet.packed_engine import Loader, ModuleEngine
from superserve.supernet.points import check_points
from superserve.supernet.runtimes.export import Exportable, export_onnx
from superserve.supernet.runtimes.memory import resident_bytes
from superserve.supernet.runtimes.sessions import FILES, open_session, write_openvino

#: The largest batch that a fresh subnet is tried with.
_MOST_ROWS: Final = 16

_SEED: Final = 0

#: What libraries raise of a subnet that they cannot take.
_FAILURES: Final = (SuperServeError, RuntimeError, ValueError, OSError)


class Built(NamedTuple):
    """What came of bringing a subnet into static runtimes."""

    engines: dict[str, ModuleEngine]
    refused: dict[str, str]
    """Why it does not run in others, by their names."""


class RuntimeBuilder:
    """Brings one subnet of a front into static runtimes, with their files in the folder of its packed program.

    Args:
        folder: the model.
        subnet: its index in the front.
        loader: of the model, in the dtype that it was packed in.
        path: the packed subnet's folder.
    """

    def __init__(self, folder: ModelFolder, subnet: int, loader: Loader, path: Path) -> None:
        self._folder = folder
        self._subnet = subnet
        self._loader = loader
        self._path = path

    @cached_property
    def _exportable(self) -> Exportable:
        return Exportable.of(self._folder, self._subnet)

    @cached_property
    def _eager(self) -> EagerEngine:
        return EagerEngine(load_supernet(self._folder))

    def build(self, runtimes: Sequence[str]) -> Built:
        """Export it, open it in each of these, and compare some batches with eager float32; seconds."""
        built = Built({}, {})
        if not runtimes:
            return built
        with tempfile.TemporaryDirectory(prefix=".export-", dir=self._path) as scratch:
            exported = Path(scratch) / "subnet.onnx"
            try:
                export_onnx(self._exportable, exported)
            except ModelFolderError as error:
                return built._replace(refused=dict.fromkeys(runtimes, str(error)))
            for runtime in runtimes:
                try:
                    self._write(runtime, exported)
                    built.engines[runtime] = self._opened(runtime)
                except _FAILURES as error:
                    built.refused[runtime] = str(error)
                    self.remove(runtime)
        return built

    def check(self, engine: ModuleEngine, batches: Sequence[int]) -> int:
        """See to it that one that is to be kept loses no accuracy on the bundled test data.

        Returns:
            What it takes in each process that holds it and runs batches of these sizes.

        Raises:
            ModelFolderError: if it does, or cannot be run in a process of its own.
        """
        check_points(engine, lambda: self._eager, self._folder, subnets=[self._subnet], again=True)
        arguments: list[np.ndarray[Any, Any]] = [
            tensor[:1].expand(batches[-1], *tensor.shape[1:]).numpy() for tensor in self._exportable.example
        ]
        return resident_bytes(engine.name, self._loader.dtype, self._path, arguments, batches)

    def remove(self, runtime: str) -> None:
        """Take a runtime's files out of the folder."""
        for name in FILES[runtime]:
            (self._path / name).unlink(missing_ok=True)

    def _write(self, runtime: str, exported: Path) -> None:
        if runtime == "openvino":
            write_openvino(exported, self._path)
        else:
            shutil.copyfile(exported, self._path / FILES[runtime][0])
        for name in FILES[runtime]:
            (self._path / name).chmod(0o600)

    def _opened(self, runtime: str) -> ModuleEngine:
        """Open it as a worker will.

        Raises:
            ModelFolderError: if that cannot be done, or it computes something else.
        """
        self._check_lengths(runtime)
        ids = [record.id for record in self._folder.front.subnets]
        engine = ModuleEngine(runtime, self._loader.dtype, ids, self._loader.module(runtime, self._path))
        most = min(_MOST_ROWS, self._folder.config.max_batch_size)
        inputs = self._folder.example_inputs(most, np.random.default_rng(_SEED))
        check_subnet(engine, self._eager, self._subnet, inputs, [1, 3, most])
        return engine

    @torch.inference_mode()
    def _check_lengths(self, runtime: str) -> None:
        """That a text may be of every length: what a trace took for a constant would be wrong at others.

        Raises:
            ModelFolderError: if the runtime gives something else than the extracted subnet in torch.
        """
        if not self._exportable.lengths:
            return
        dtype = self._loader.dtype
        session = open_session(runtime, dtype, self._path)
        for length in self._exportable.lengths:
            arguments = [tensor[:, :length].contiguous() for tensor in self._exportable.example]
            expected = [self._exportable.subnet(*arguments).numpy()]
            error = relative_error(session([tensor.numpy() for tensor in arguments]), expected)
            if not error <= TOLERANCE[dtype]:
                raise ModelFolderError(
                    f"{runtime} ({dtype}) differs by {error:.2g} of the largest output at {length} tokens"
                )
