"""``norms.safetensors``: the SubnetNorm statistics of a front, each distinct set once, in half precision where it pays.

Format 2, written today. The sets (mean and variance per channel) of one normalisation with one width lie in one
tensor ``NORM/CHANNELS``, (sets, 2, channels), float16 or float32; ``index`` (subnets, norms) int32 says which of them
a subnet uses, -1 where it does not run that norm. What a layer sees depends on the choices before it only, so that
subnets that begin alike share the sets of their beginning: equal sets are stored once. Format 1 has a tensor
``SUBNET/NORM/mean`` and one ``.../variance`` for each, float32; it is still read.

Half precision is for fronts of hundreds: it is used if float32 sets would take more than a quarter of the weights, and
only for tensors of which rounding moves no normalised value by more than about a 250th of a standard deviation.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Final

import msgspec
import torch
from torch import Tensor, nn

from superserve.errors import ModelFolderError
from superserve.model_folder import CONFIG_FILE, FRONT_FILE, NORMS_FILE, WEIGHTS_FILE, ModelFolder
from superserve.subnet import SubnetSpec
from superserve.supernet.operators import HalfStatistics, NormStatistics, Statistics
from superserve.supernet.tensor_files import check_tensors, read_tensors, sha256, write_tensors

FORMAT: Final = 2

#: The share of the weights' bytes from which float32 statistics are halved.
HALF_FROM: Final = 0.25

#: How far rounding to half precision may move a normalised value at one standard deviation, in standard deviations.
#: A mean of up to eight of them always passes: the error of float16 is at most 2^-11 of the value.
_MOST_ERROR: Final = 2**-8

_METADATA: Final = "superserve"
_INDEX: Final = "index"


class _Origin(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the statistics were computed for; in the file's metadata.

    One JSON value under one key: safetensors writes several keys in random order, and files are to be reproducible.
    """

    weights_sha256: str
    specs: dict[str, SubnetSpec]
    """Of each subnet, in the order of the index's rows."""
    format: int = 1
    norms: tuple[str, ...] = ()
    """In the order of the index's columns (format 2)."""


def write_statistics(
    path: Path,
    network: nn.Module,
    specs: Mapping[str, SubnetSpec],
    statistics: Mapping[str, Statistics],
    *,
    half: bool | None = None,
) -> None:
    """Write the statistics of these subnets beside weights that were written before.

    Args:
        path: the model folder.
        network: what the statistics belong to.
        specs: the subnets by id, in front order.
        statistics: of each subnet.
        half: whether to halve what can be halved; None decides by `HALF_FROM`.
    """
    norms = tuple(sorted(set(chain.from_iterable(statistics[subnet] for subnet in specs))))
    groups, index = _grouped([statistics[subnet] for subnet in specs], norms)
    if half is None:
        half = sum(group.nbytes for group in groups.values()) > HALF_FROM * (path / WEIGHTS_FILE).stat().st_size
    if half:
        groups = {key: _halved(group, network.get_submodule(_norm(key))) for key, group in groups.items()}
    origin = _Origin(sha256(path / WEIGHTS_FILE), dict(specs), FORMAT, norms)
    metadata = {_METADATA: msgspec.json.encode(origin).decode()}
    write_tensors(path / NORMS_FILE, {**groups, _INDEX: index}, metadata)


def _grouped(statistics: Sequence[Statistics], norms: Sequence[str]) -> tuple[dict[str, Tensor], Tensor]:
    """Distinct sets by norm and width, float32, and the index into them."""
    sets: dict[str, dict[bytes, Tensor]] = {}
    numbers: dict[str, dict[bytes, int]] = {}
    index = torch.full((len(statistics), len(norms)), -1, dtype=torch.int32)
    for row, subnet in enumerate(statistics):
        for column, norm in enumerate(norms):
            if norm in subnet:
                both = torch.stack((subnet[norm].mean, subnet[norm].variance)).float()
                key, content = _key(norm, both.shape[1]), both.numpy().tobytes()
                known = numbers.setdefault(key, {})
                sets.setdefault(key, {}).setdefault(content, both)
                index[row, column] = known.setdefault(content, len(known))
    return {key: torch.stack(list(found.values())) for key, found in sorted(sets.items())}, index


def _key(norm: str, channels: int) -> str:
    return f"{norm}/{channels}"


def _norm(key: str) -> str:
    return key.rpartition("/")[0]


def _halved(group: Tensor, norm: nn.Module) -> Tensor:
    """The group in float16 if that is precise enough, else as it is."""
    half = group.half()
    mean, variance = group.unbind(1)
    rounded_mean, rounded_variance = half.float().unbind(1)
    scale = variance + float(getattr(norm, "eps", 0.0))
    # Half the relative error of the variance is that of the deviation.
    moved = (rounded_mean - mean).abs() / scale.sqrt() + 0.5 * (rounded_variance - variance).abs() / scale
    return half if bool((moved <= _MOST_ERROR).all()) else group


def read_statistics(folder: ModelFolder, channels: Mapping[str, Mapping[str, int]]) -> dict[str, Statistics]:
    """The statistics of each subnet, whose norms have these channels; their tensors are views of the mapped file.

    Raises:
        ModelFolderError: if they are missing, stale or of other shapes; the message names the file and the fix.
    """
    tensors, metadata = read_tensors(folder.norms_path)
    origin = _fresh_origin(folder, metadata)
    if origin.format == 1:
        return _read_pairs(folder, tensors, channels)
    return _Groups(folder, tensors, origin).statistics(channels)


def _fresh_origin(folder: ModelFolder, metadata: Mapping[str, str]) -> _Origin:
    """Refuse statistics that were computed for other weights or for a subnet that has since changed."""
    path = folder.norms_path
    try:
        origin = msgspec.json.decode(metadata.get(_METADATA, ""), type=_Origin)
    except msgspec.MsgspecError as error:
        raise ModelFolderError(f"{path}: does not say what it was computed for ({error}): calibrate again") from None
    if origin.format not in {1, FORMAT}:
        raise ModelFolderError(f"{path}: format {origin.format} is not 1 or {FORMAT}, those that this version reads")
    if origin.weights_sha256 != sha256(folder.weights_path):
        raise ModelFolderError(f"{path}: computed for other weights than {WEIGHTS_FILE}: calibrate again")
    for record in folder.front.subnets:
        if origin.specs.get(record.id) != record.spec:
            raise ModelFolderError(f"{path}: no statistics of subnet {record.id!r} as in {FRONT_FILE}: calibrate again")
    return origin


def _read_pairs(
    folder: ModelFolder, tensors: Mapping[str, Tensor], channels: Mapping[str, Mapping[str, int]]
) -> dict[str, Statistics]:
    """Format 1."""
    expected = {
        key: ((count,), torch.float32)
        for subnet, counts in channels.items()
        for name, count in counts.items()
        for key in _pair(subnet, name)
    }
    check_tensors(folder.norms_path, tensors, expected, f"{CONFIG_FILE} and {FRONT_FILE}")
    return {
        subnet: {name: NormStatistics(*(tensors[key] for key in _pair(subnet, name))) for name in counts}
        for subnet, counts in channels.items()
    }


def _pair(subnet: str, norm: str) -> tuple[str, str]:
    return f"{subnet}/{norm}/mean", f"{subnet}/{norm}/variance"


class _Groups:
    """Format 2: groups of sets, and each subnet's way into them."""

    def __init__(self, folder: ModelFolder, tensors: dict[str, Tensor], origin: _Origin) -> None:
        self._path = folder.norms_path
        self._origin = origin
        self._groups = {key: tensor for key, tensor in tensors.items() if key != _INDEX}
        self._columns = {norm: column for column, norm in enumerate(origin.norms)}
        self._sets: dict[str, list[HalfStatistics | NormStatistics]] = {}
        expected = (len(origin.specs), len(origin.norms))
        if _INDEX not in tensors:
            raise ModelFolderError(f"{self._path}: tensor {_INDEX!r} is missing: write the folder again")
        index = tensors[_INDEX]
        if index.dtype != torch.int32 or tuple(index.shape) != expected:
            raise ModelFolderError(
                f"{self._path}: tensor {_INDEX!r} is {index.dtype} {tuple(index.shape)}, not torch.int32 {expected}: "
                "write the folder again"
            )
        self._rows = dict(zip(origin.specs, index.tolist(), strict=True))

    def statistics(self, channels: Mapping[str, Mapping[str, int]]) -> dict[str, Statistics]:
        """By subnet and norm; a set that several subnets use is one object."""
        wanted = {_key(norm, count) for counts in channels.values() for norm, count in counts.items()}
        for key in sorted(wanted):
            self._sets[key] = list(self._checked(key))
        unknown = sorted(key for key in self._groups if _norm(key) not in self._columns)
        if unknown:
            raise ModelFolderError(
                f"{self._path}: tensor {unknown[0]!r} has no place in the architecture: write the folder again"
            )
        return {
            subnet: {norm: self._set(subnet, norm, count) for norm, count in counts.items()}
            for subnet, counts in channels.items()
        }

    def _set(self, subnet: str, norm: str, count: int) -> HalfStatistics | NormStatistics:
        sets = self._sets[_key(norm, count)]
        number = self._rows[subnet][self._columns[norm]] if norm in self._columns else -1
        if not 0 <= number < len(sets):
            raise ModelFolderError(
                f"{self._path}: subnet {subnet!r} has no statistics of {norm!r} (set {number} of {len(sets)}): "
                "calibrate again"
            )
        return sets[number]

    def _checked(self, key: str) -> Iterator[HalfStatistics | NormStatistics]:
        """The sets of a group."""
        if key not in self._groups:
            raise ModelFolderError(f"{self._path}: tensor {key!r} is missing: write the folder again")
        group, count = self._groups[key], int(key.rpartition("/")[2])
        if (
            group.dim() != 3
            or tuple(group.shape[1:]) != (2, count)
            or group.dtype not in {torch.float16, torch.float32}
        ):
            raise ModelFolderError(
                f"{self._path}: tensor {key!r} is {group.dtype} {tuple(group.shape)}, but {CONFIG_FILE} and "
                f"{FRONT_FILE} make it torch.float16 or torch.float32 (sets, 2, {count}): write the folder again"
            )
        if group.dtype == torch.float16:
            return (HalfStatistics(group, number) for number in range(len(group)))
        return (NormStatistics(*both.unbind()) for both in group)


def statistics_bytes(statistics: Mapping[str, Statistics]) -> int:
    """Bytes of all sets, those that several subnets share counted once."""
    distinct = {id(found): found for subnet in statistics.values() for found in subnet.values()}
    return sum(found.nbytes for found in distinct.values())
