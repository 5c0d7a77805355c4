"""Supernets to and from model folders: safetensors only, and every tensor checked.

Weights are mapped from the file, not read into private memory: all processes of a machine that load one folder share
one physical copy of them through the page cache. Nothing writes to a loaded supernet.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.overrides import TorchFunctionMode

from superserve.errors import ConfigError, IllegalSubnetError, ModelFolderError
from superserve.model_folder import (
    CONFIG_FILE,
    FRONT_FILE,
    NORMS_FILE,
    TEST_FILE,
    WEIGHTS_FILE,
    ModelFolder,
    write_json,
)
from superserve.subnet import SubnetSpec
from superserve.supernet.network import ElasticNetwork, Supernet
from superserve.supernet.operators import NormStatistics, Statistics
from superserve.supernet.preprocess import parse_preprocessing
from superserve.supernet.zoo import build_network


class _Origin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the statistics were computed for; in the norms file's metadata.

    One JSON value under one key: safetensors writes several keys in random order, and files are to be reproducible.
    """

    weights_sha256: str
    specs: dict[str, SubnetSpec]


_ORIGIN = "superserve"


def load_supernet(folder: ModelFolder) -> Supernet:
    """Load a model folder; the weights are shared with every other process that loads it.

    Raises:
        ModelFolderError: naming the file, the tensor and the fix, if anything is missing, of another shape or type
            than the architecture says, unknown, or calibrated for other weights or subnets.
    """
    config, front = folder.config, folder.front
    with _blame(folder.path / CONFIG_FILE):
        parse_preprocessing(config.preprocessing)
        # Without memory: the file's tensors take the place of these parameters.
        with torch.device("meta"), _Unfilled():
            network = build_network(config.family, config.architecture)
    channels = {}
    for record in front.subnets:
        with _blame(folder.path / FRONT_FILE, f"subnet {record.id!r}: "):
            channels[record.id] = network.geometry(record.spec).channels
    _load_weights(network, folder.weights_path)
    return Supernet(config, front, network, _load_statistics(folder, channels))


def save_supernet(
    supernet: Supernet, path: Path, *, test: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]] | None = None
) -> ModelFolder:
    """Write a supernet as a model folder, with bundled test examples (inputs, labels) if given.

    ``config.json`` is written last: a folder that lacks it is not a model.
    """
    path.mkdir(parents=True, exist_ok=True)
    (path / CONFIG_FILE).unlink(missing_ok=True)
    weights = {name: tensor.detach().contiguous() for name, tensor in supernet.network.state_dict().items()}
    _write(path / WEIGHTS_FILE, weights, {"format": "pt"})
    norms: dict[str, Tensor] = {}
    for subnet, statistics in supernet.statistics.items():
        for name, found in statistics.items():
            norms |= dict(zip(_keys(subnet, name), (tensor.contiguous() for tensor in found), strict=True))
    specs = {record.id: record.spec for record in supernet.front.subnets}
    origin = _Origin(_sha256(path / WEIGHTS_FILE), specs)
    _write(path / NORMS_FILE, norms, {_ORIGIN: msgspec.json.encode(origin).decode()})
    if test is not None:
        np.savez_compressed(path / TEST_FILE, inputs=test[0], labels=test[1])
    write_json(path / FRONT_FILE, supernet.front)
    write_json(path / CONFIG_FILE, supernet.config)
    return ModelFolder(path)


class _Unfilled(TorchFunctionMode):
    """Leaves out random initialisation, which tensors without memory have no use for.

    Not only to save work: `Tensor.normal_` without memory makes torch import its compiler, a second and some 40 MB
    in every worker.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,  # noqa: ANN401 (torch's signature)
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Run any function but the random fills."""
        if func in {Tensor.normal_, Tensor.uniform_}:
            return args[0]
        return func(*args, **(kwargs or {}))


def _write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Rename into place: a process that has the old file mapped keeps it as it was."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_bytes(save(tensors, metadata))
    scratch.replace(path)


def _keys(subnet: str, norm: str) -> tuple[str, str]:
    return f"{subnet}/{norm}/mean", f"{subnet}/{norm}/variance"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _load_weights(network: ElasticNetwork, path: Path) -> None:
    tensors, _ = _read(path)
    _check(path, tensors, {name: (tuple(it.shape), it.dtype) for name, it in network.state_dict().items()})
    network.load_state_dict(tensors, assign=True)
    network.requires_grad_(requires_grad=False).eval()


def _load_statistics(folder: ModelFolder, channels: Mapping[str, Mapping[str, int]]) -> dict[str, Statistics]:
    """The statistics of each subnet, whose norms have these channels."""
    norms, metadata = _read(folder.norms_path)
    _check_fresh(folder, metadata)
    expected = {
        key: ((count,), torch.float32)
        for subnet, counts in channels.items()
        for name, count in counts.items()
        for key in _keys(subnet, name)
    }
    _check(folder.norms_path, norms, expected)
    return {
        subnet: {name: NormStatistics(*(norms[key] for key in _keys(subnet, name))) for name in counts}
        for subnet, counts in channels.items()
    }


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Map a safetensors file; its tensors are views of the mapping."""
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}, dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise ModelFolderError(f"{path}: not a readable safetensors file ({error}): write it again") from None


def _check(
    path: Path, tensors: Mapping[str, Tensor], expected: Mapping[str, tuple[tuple[int, ...], torch.dtype]]
) -> None:
    """Compare names, shapes and types with what the architecture and the front say."""
    for name, (shape, dtype) in expected.items():
        if name not in tensors:
            raise ModelFolderError(f"{path}: tensor {name!r} is missing: write the folder again")
        found = tensors[name]
        if tuple(found.shape) != shape or found.dtype != dtype:
            raise ModelFolderError(
                f"{path}: tensor {name!r} is {found.dtype} {tuple(found.shape)}, but {CONFIG_FILE} and {FRONT_FILE} "
                f"make it {dtype} {shape}: restore the file that was changed, or write the folder again"
            )
    unknown = sorted(set(tensors) - set(expected))
    if unknown:
        raise ModelFolderError(
            f"{path}: tensor {unknown[0]!r} (and {len(unknown) - 1} more) has no place in the architecture: the file "
            "belongs to another model"
        )


def _check_fresh(folder: ModelFolder, metadata: Mapping[str, str]) -> None:
    """Refuse statistics that were computed for other weights or for a subnet that has since changed."""
    path = folder.norms_path
    try:
        origin = msgspec.json.decode(metadata.get(_ORIGIN, ""), type=_Origin)
    except msgspec.MsgspecError as error:
        raise ModelFolderError(f"{path}: does not say what it was computed for ({error}): calibrate again") from None
    if origin.weights_sha256 != _sha256(folder.weights_path):
        raise ModelFolderError(f"{path}: computed for other weights than {WEIGHTS_FILE}: calibrate again")
    for record in folder.front.subnets:
        if origin.specs.get(record.id) != record.spec:
            raise ModelFolderError(f"{path}: no statistics of subnet {record.id!r} as in {FRONT_FILE}: calibrate again")


@contextmanager
def _blame(path: Path, what: str = "") -> Iterator[None]:
    """Turn a complaint about content into one that names the file it stands in."""
    try:
        yield
    except (ConfigError, IllegalSubnetError) as error:
        raise ModelFolderError(f"{path}: {what}{error}") from None
