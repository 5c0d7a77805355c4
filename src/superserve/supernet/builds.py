"""Compiled code in the user's cache: where it lies, what it was built for, and whether it may be used.

Native code runs with the rights of whoever loads it. It is therefore never written into a model folder nor taken from
one: only from this user's cache, from files that nobody else may write, whose hashes are those noted when they were
built. Nothing here imports torch: the router decides which engine its workers run.
"""

import hashlib
import logging
import os
import stat
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from superserve import __version__
from superserve.errors import ModelFolderError
from superserve.model_folder import ModelFolder, cache_folder
from superserve.processor import cpu_fingerprint

logger = logging.getLogger(__name__)

#: Raised whenever builds of before must not be used any more.
FORMAT: Final = 3

MANIFEST_FILE: Final = "build.json"
_FIX: Final = "compile again with `superserve compile`"


class Target(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What code was compiled for."""

    superserve: str
    """The version whose operators and families were traced."""
    torch: str
    cpu: str
    """Name and instruction sets of the processor, hashed: code uses all that the machine has."""
    dtype: str


class BuiltSubnet(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The code of one subnet."""

    id: str
    seconds: float
    """What compiling took."""
    error: float = 0.0
    """Largest difference from eager float32 on real inputs, over the largest output."""
    full_batch_us: float = 0.0
    """Median time of the largest batch when the build was checked: what dtypes are compared by."""


class Build(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of ``build.json``, which is written last: a folder that lacks it is no build."""

    format: int
    model_hash: str
    target: Target
    subnets: tuple[BuiltSubnet, ...]
    """In front order."""
    sha256: dict[str, str]
    """Of every other file of the build: `file_names` of each subnet."""


def file_names(subnet: int) -> tuple[str, str]:
    """A subnet's files beside the manifest: its library, and the constants that its trace added (a few bytes)."""
    return f"{subnet}.so", f"{subnet}.safetensors"


class KeptBuild(NamedTuple):
    """A build that may be used, and where it lies."""

    path: Path
    build: Build

    @property
    def full_batch_us(self) -> float:
        """The largest batch on each subnet, summed."""
        return sum(subnet.full_batch_us for subnet in self.build.subnets)


def builds_path(folder: ModelFolder) -> Path:
    """Where the builds of a model are kept, bundled or not: in the user's cache, by what the model computes."""
    return cache_folder() / "compiled" / f"{folder.config.name}-{folder.model_hash[:16]}"


def build_path(folder: ModelFolder, target: Target) -> Path:
    """Where the build for a target is kept."""
    digest = hashlib.sha256(msgspec.json.encode((FORMAT, target))).hexdigest()
    return builds_path(folder) / f"{target.dtype}-{digest[:16]}"


def this_machine(dtype: str = "float32") -> Target:
    """The target that code must have been built for to run here."""
    return Target(
        superserve=__version__,
        torch=metadata.version("torch"),
        cpu=cpu_fingerprint(),
        dtype=dtype,
    )


def find_build(folder: ModelFolder, dtype: str = "float32") -> KeptBuild | None:
    """The kept build of a model for this machine and torch, every byte checked; None if none may be used.

    What lies there and may not be used is told in a warning.
    """
    path = build_path(folder, this_machine(dtype))
    if path.exists():
        try:
            return KeptBuild(path, load_build(folder, path))
        except ModelFolderError as error:
            logger.warning("ignoring compiled code: %s", error)
            return None
    for other, build in _others(folder, dtype):
        logger.warning(
            "ignoring compiled code in %s: built for %s: %s",
            other,
            _difference(build.target),
            _FIX,
        )
    return None


def load_build(folder: ModelFolder, path: Path) -> Build:
    """Read a build and check every byte of it.

    Raises:
        ModelFolderError: if it may not be used, saying why.
    """
    for file in (path.parent.parent, path.parent, path, path / MANIFEST_FILE):
        check_ours(file)
    try:
        build = msgspec.json.decode((path / MANIFEST_FILE).read_bytes(), type=Build)
    except (OSError, msgspec.MsgspecError) as error:
        raise ModelFolderError(f"{path / MANIFEST_FILE}: {error}: {_FIX}") from None
    if build.format != FORMAT or build.model_hash != folder.model_hash:
        raise ModelFolderError(f"{path}: built for another model or by another version: {_FIX}")
    if build.target != this_machine(build.target.dtype):
        raise ModelFolderError(f"{path}: built for {_difference(build.target)}: {_FIX}")
    if [subnet.id for subnet in build.subnets] != [record.id for record in folder.front.subnets]:
        raise ModelFolderError(f"{path}: built for other subnets: {_FIX}")
    for name in (name for number in range(len(build.subnets)) for name in file_names(number)):
        check_ours(path / name)
        if build.sha256.get(name) != sha256(path / name):
            raise ModelFolderError(f"{path / name}: not what was built: {_FIX}")
    return build


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_ours(path: Path, fix: str = f"{_FIX} --force") -> None:
    """Refuse what this user did not write, or others may change between the check and its use.

    Raises:
        ModelFolderError: with what mends it, ``fix``.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise ModelFolderError(f"{path}: {error.strerror}: {fix}") from None
    if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ModelFolderError(
            f"{path}: others may write it, so that it is not used: take their rights away (chmod -R go-w) and {fix}"
        )


def _others(folder: ModelFolder, dtype: str) -> Iterator[tuple[Path, Build]]:
    """The builds of a model and dtype for whatever target."""
    for manifest in sorted(builds_path(folder).glob(f"{dtype}-*/{MANIFEST_FILE}")):
        try:
            yield manifest.parent, msgspec.json.decode(manifest.read_bytes(), type=Build)
        except (OSError, msgspec.MsgspecError) as error:
            logger.warning("ignoring compiled code: %s: %s", manifest, error)


def _difference(target: Target) -> str:
    here = this_machine(target.dtype)
    if target.torch != here.torch:
        return f"torch {target.torch}, not {here.torch}"
    if target.cpu != here.cpu:
        return "another processor"
    return f"SuperServe {target.superserve}" if target.superserve != here.superserve else "an earlier format"
