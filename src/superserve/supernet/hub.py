"""Supernets to and from model folders: safetensors only, and every tensor checked.

Weights are mapped from the file, not read into private memory: all processes of a machine that load one folder share
one physical copy of them through the page cache. Nothing writes to a loaded supernet.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from superserve.errors import ConfigError, IllegalSubnetError, ModelFolderError
from superserve.model_folder import (
    CONFIG_FILE,
    FRONT_FILE,
    TEST_FILE,
    WEIGHTS_FILE,
    ModelFolder,
    write_json,
)
from superserve.supernet.network import ElasticNetwork, Supernet
from superserve.supernet.norms_file import read_statistics, write_statistics
from superserve.supernet.preprocess import parse_preprocessing
from superserve.supernet.tensor_files import check_tensors, read_tensors, write_tensors
from superserve.supernet.text import TextPreprocessing
from superserve.supernet.zoo import build_network


def load_supernet(folder: ModelFolder) -> Supernet:
    """Load a model folder; the weights are shared with every other process that loads it.

    Raises:
        ModelFolderError: naming the file, the tensor and the fix, if anything is missing, of another shape or type
            than the architecture says, unknown, or calibrated for other weights or subnets.
    """
    config, front = folder.config, folder.front
    with _blame(folder.path / CONFIG_FILE):
        preprocessing = parse_preprocessing(config.preprocessing)
        # The file's tensors take the place of its parameters.
        network = empty_network(config.family, config.architecture)
        if isinstance(preprocessing, TextPreprocessing):
            _check_reads(network, preprocessing)
    channels = {}
    for record in front.subnets:
        with _blame(folder.path / FRONT_FILE, f"subnet {record.id!r}: "):
            channels[record.id] = network.geometry(record.spec).channels
    _load_weights(network, folder.weights_path)
    return Supernet(config, front, network, read_statistics(folder, channels))


def empty_network(family: str, architecture: Mapping[str, Any]) -> ElasticNetwork:
    """A network whose parameters have shapes but no memory (torch's ``meta`` device).

    Raises:
        ConfigError: if there is no such family or the architecture does not fit it.
    """
    with torch.device("meta"), _Unfilled():
        return build_network(family, architecture)


def save_supernet(
    supernet: Supernet,
    path: Path,
    *,
    test: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]] | None = None,
    half: bool | None = None,
) -> ModelFolder:
    """Write a supernet as a model folder.

    ``config.json`` is written last: a folder that lacks it is not a model.

    Args:
        supernet: what to write.
        path: the folder.
        test: bundled test examples (inputs, labels).
        half: whether statistics are written in half precision; None means if float32 ones would take more than a
            quarter of the weights (`norms_file`).
    """
    path.mkdir(parents=True, exist_ok=True)
    (path / CONFIG_FILE).unlink(missing_ok=True)
    weights = {name: tensor.detach().contiguous() for name, tensor in supernet.network.state_dict().items()}
    write_tensors(path / WEIGHTS_FILE, weights, {"format": "pt"})
    specs = {record.id: record.spec for record in supernet.front.subnets}
    write_statistics(path, supernet.network, specs, supernet.statistics, half=half)
    if test is not None:
        np.savez_compressed(path / TEST_FILE, inputs=test[0], labels=test[1])
    write_json(path / FRONT_FILE, supernet.front)
    write_json(path / CONFIG_FILE, supernet.config)
    return ModelFolder(path)


class _Unfilled(TorchFunctionMode):
    """Leaves out initialisation, which tensors without memory have no use for.

    Not only to save work: `Tensor.normal_` and `torch.eye` without memory make torch import its compiler, a second and
    some 70 MB in every worker. Functions of `torch.nn.init` are left out whole, since torch asks no mode about what
    they call. Where there is memory, as in what users' builders make, numbers are drawn: `torch.nn.init.trunc_normal_`,
    about which no mode is asked either, draws until all are in range.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,  # noqa: ANN401 (torch's signature)
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Run any function but the fills."""
        if getattr(func, "__module__", "") == nn.init.__name__:
            return args[0] if args else (kwargs or {})["tensor"]
        if func in {Tensor.normal_, Tensor.uniform_} and args[0].is_meta:
            return args[0]
        if func is torch.eye:
            return torch.empty(args[0], args[0])
        return func(*args, **(kwargs or {}))


def _check_reads(network: ElasticNetwork, preprocessing: TextPreprocessing) -> None:
    """Refuse numbers and places of pieces that a network has no embeddings for: they would end whole batches.

    Raises:
        ConfigError: naming the size that is too small.
    """
    needed = {"vocabulary": len(preprocessing.pieces.split(" ")), "positions": preprocessing.lengths[-1]}
    for size, count in needed.items():
        found = getattr(getattr(network, "config", None), size, 0)
        if found < count:
            raise ConfigError(f"preprocessing gives {count} {size}, but the architecture has {found}")


def _load_weights(network: ElasticNetwork, path: Path) -> None:
    tensors, _ = read_tensors(path)
    expected = {name: (tuple(it.shape), it.dtype) for name, it in network.state_dict().items()}
    check_tensors(path, tensors, expected, f"{CONFIG_FILE} and {FRONT_FILE}")
    network.load_state_dict(tensors, assign=True)
    network.requires_grad_(requires_grad=False).eval()


@contextmanager
def _blame(path: Path, what: str = "") -> Iterator[None]:
    """Turn a complaint about content into one that names the file it stands in."""
    try:
        yield
    except (ConfigError, IllegalSubnetError) as error:
        raise ModelFolderError(f"{path}: {what}{error}") from None
