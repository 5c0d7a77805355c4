"""Which subnets of an imported supernet are served."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch
from torch import Tensor

from superserve.errors import ConfigError, IllegalSubnetError
from superserve.model_folder import TensorSpec
from superserve.subnet import SubnetSpec
from superserve.supernet.importing.family import Family
from superserve.supernet.macs import count_macs
from superserve.supernet.network import ElasticNetwork
from superserve.supernet.preprocess import Preprocessor


class Chosen(NamedTuple):
    """A subnet to serve."""

    id: str
    spec: SubnetSpec
    macs: int
    """Multiply-accumulates of one row."""
    accuracy: float | None = None
    """Top-1 in per cent, if it was given and not measured here."""
    accuracy_n: int = 0


class SubnetEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One subnet of a `SubnetList`: its spec, or the family's own words for it."""

    id: str
    arch: dict[str, Any] | None = None
    spec: SubnetSpec | None = None
    accuracy: float | None = None
    accuracy_n: int = 0


class SubnetList(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file that ``--subnets`` takes."""

    subnets: tuple[SubnetEntry, ...]
    measured_on: str = ""
    """Which data and split the accuracies were measured on, in words: needed where they are given."""


def read_list(path: Path) -> SubnetList:
    """Read a list of subnets.

    Raises:
        ConfigError: if it is missing, malformed, empty, names a subnet twice, or gives accuracies without saying
            what they were measured on.
    """
    try:
        listed = msgspec.json.decode(path.read_bytes(), type=SubnetList)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
    except msgspec.MsgspecError as error:
        raise ConfigError(f"{path}: {error}") from None
    ids = [entry.id for entry in listed.subnets]
    if not ids or len(set(ids)) != len(ids):
        raise ConfigError(f"{path}: subnets must be present and have distinct ids")
    given = [entry.accuracy is not None for entry in listed.subnets]
    if any(given) and not listed.measured_on:
        raise ConfigError(f"{path}: accuracies without `measured_on`: say on which data and split they were measured")
    if any((entry.arch is None) == (entry.spec is None) for entry in listed.subnets):
        raise ConfigError(f"{path}: each subnet needs either `arch` or `spec`")
    return listed


class Sizer:
    """Counts multiply-accumulates on a network without memory.

    Args:
        network: on the ``meta`` device.
        inputs: the model's inputs.
        preprocess: what turns them into the network's.
    """

    def __init__(self, network: ElasticNetwork, inputs: Sequence[TensorSpec], preprocess: Preprocessor) -> None:
        self._network = network
        rows = [torch.from_numpy(np.zeros((1, *tensor.row_shape), tensor.dtype)) for tensor in inputs]
        self._arguments: tuple[Tensor, ...] = tuple(x.to("meta") for x in preprocess(rows))

    def __call__(self, spec: SubnetSpec) -> int:
        """Multiply-accumulates of one row."""
        return count_macs(self._network, spec, self._arguments)


def choose(network: ElasticNetwork, count: int, sizer: Sizer) -> list[Chosen]:
    """Subnets from the smallest to the largest, nearly evenly spaced in multiply-accumulates.

    They are taken from those that choose the same in all stages and blocks. Which of them a search would find best
    for their cost is unknown without data: give a list of them for that.

    Raises:
        ConfigError: if ``count`` is below 1.
    """
    if count < 1:
        raise ConfigError(f"subnets: {count} is not a positive number")
    sized = sorted((sizer(spec), spec) for spec in network.space.uniform())
    targets = np.linspace(sized[0][0], sized[-1][0], count) if count > 1 else np.array([sized[-1][0]])
    free = list(range(len(sized)))
    for target in targets[: len(sized)]:
        free.remove(min(free, key=lambda index: abs(sized[index][0] - target)))
    kept = [subnet for index, subnet in enumerate(sized) if index not in free]
    return [Chosen(f"s{number}", spec, macs) for number, (macs, spec) in enumerate(kept)]


def listed(
    family: Family[Any, Any], network: ElasticNetwork, entries: Sequence[SubnetEntry], sizer: Sizer
) -> list[Chosen]:
    """The subnets of a list.

    Raises:
        ConfigError: naming the subnet that is not in the space, or is described in unknown words.
    """
    return [_entry(family, network, entry, sizer) for entry in entries]


def _entry(family: Family[Any, Any], network: ElasticNetwork, entry: SubnetEntry, sizer: Sizer) -> Chosen:
    try:
        spec = entry.spec if entry.arch is None else family.spec(network, entry.arch)
        assert spec is not None
        network.space.validate(spec)
    except (IllegalSubnetError, msgspec.ValidationError) as error:
        raise ConfigError(f"subnet {entry.id!r}: {error}") from None
    return Chosen(entry.id, spec, sizer(spec), entry.accuracy, entry.accuracy_n)
