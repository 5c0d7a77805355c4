"""How the nodes of a cluster come by a model: each maps its weights from its own disk, once for all of its workers.

A node that has the router's folder at the same path (a shared file system, an image), or the bundled model, uses that
if its hash is the router's. Any other gets the files, once, and keeps them in its cache folder.
"""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from superserve.errors import ModelFolderError
from superserve.file_lock import alone
from superserve.model_folder import (
    CONFIG_FILE,
    FRONT_FILE,
    NORMS_FILE,
    WEIGHTS_FILE,
    ModelFolder,
    bundled_models,
    cache_folder,
)
from superserve.serving.ipc import WorkerSpec

#: All that an engine reads.
FILES: Final = (CONFIG_FILE, FRONT_FILE, NORMS_FILE, WEIGHTS_FILE)

Files = Mapping[str, "np.ndarray[Any, np.dtype[np.uint8]]"]
"""The bytes of each of `FILES`, (size,)."""


class ModelSource(msgspec.Struct, frozen=True, array_like=True):
    """The router's folder of a model: where it lies there, and what it must hold wherever it lies."""

    name: str
    path: str
    bundled: bool
    model_hash: str


def source_of(spec: WorkerSpec) -> ModelSource | None:
    """Where the model of a worker comes from; None for an emulated one.

    Raises:
        ModelFolderError: if the folder lacks a file.
    """
    if "folder" not in spec.options:
        return None
    folder = ModelFolder(Path(str(spec.options["folder"])), bundled=bool(spec.options["bundled"]))
    return ModelSource(folder.config.name, str(folder.path), folder.bundled, folder.model_hash)


def located(spec: WorkerSpec, folder: ModelFolder) -> WorkerSpec:
    """The same workers with their model at another place."""
    options = {**spec.options, "folder": str(folder.path), "bundled": folder.bundled}
    return msgspec.structs.replace(spec, options=options)


def read(source: ModelSource) -> Files:
    """The files of the router's folder, mapped."""
    return {name: np.memmap(Path(source.path) / name, np.uint8, "r") for name in FILES}


def find(source: ModelSource) -> ModelFolder | None:
    """The model on this node, if it is here: the very same, to the byte."""
    for folder in _places(source):
        try:
            if folder.model_hash == source.model_hash:
                return folder
        except (ModelFolderError, OSError):  # not there, or not all of it: the next place
            continue
    return None


def keep(source: ModelSource, files: Files) -> ModelFolder:
    """Write a model into this node's cache; whoever comes while another worker does so waits and finds it.

    Raises:
        ModelFolderError: if what has come is not what the router has, or cannot be written.
    """
    kept = _kept(source)
    try:
        kept.path.parent.mkdir(parents=True, exist_ok=True)
        with alone(kept.path.with_suffix(".lock")):
            found = find(source)
            if found is not None:
                return found
            _write(kept.path, files)
    except OSError as error:
        raise ModelFolderError(f"model {source.name!r} cannot be kept at {kept.path}: {error}") from error
    if kept.model_hash != source.model_hash:
        raise ModelFolderError(
            f"model {source.name!r} came as another version than the router's ({kept.model_hash[:12]} instead of "
            f"{source.model_hash[:12]}): was {source.path} overwritten since the server started? Start it again"
        )
    return kept


def _places(source: ModelSource) -> Iterator[ModelFolder]:
    if source.bundled and source.name in bundled_models():
        yield ModelFolder(bundled_models()[source.name], bundled=True)
    yield ModelFolder(Path(source.path))
    yield _kept(source)


def _kept(source: ModelSource) -> ModelFolder:
    return ModelFolder(cache_folder() / "models" / f"{source.name}-{source.model_hash[:12]}")


def _write(path: Path, files: Files) -> None:
    """Renamed into place when it is whole; what lay there was not the model."""
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        whole = Path(scratch) / path.name
        whole.mkdir()
        for name in FILES:
            files[name].tofile(whole / name)
        shutil.rmtree(path, ignore_errors=True)
        whole.rename(path)
