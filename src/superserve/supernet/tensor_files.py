"""Safetensors files: written whole, mapped when read, every tensor checked."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from superserve.errors import ModelFolderError


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a file, renamed into place: a process that has the old one mapped keeps it as it was."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_bytes(save(tensors, metadata))
    scratch.replace(path)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Map a file: its tensors, which are views of the mapping, and its metadata.

    Raises:
        ModelFolderError: if it cannot be read as one.
    """
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}, dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise ModelFolderError(f"{path}: not a readable safetensors file ({error}): write it again") from None


def check_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    expected: Mapping[str, tuple[tuple[int, ...], torch.dtype]],
    source: str,
) -> None:
    """Compare names, shapes and types with what they must be; ``source`` names the files that say so.

    Raises:
        ModelFolderError: naming the first tensor that is missing, wrong or unknown.
    """
    for name, (shape, dtype) in expected.items():
        if name not in tensors:
            raise ModelFolderError(f"{path}: tensor {name!r} is missing: write the folder again")
        found = tensors[name]
        if tuple(found.shape) != shape or found.dtype != dtype:
            raise ModelFolderError(
                f"{path}: tensor {name!r} is {found.dtype} {tuple(found.shape)}, but {source} make it {dtype} {shape}: "
                "restore the file that was changed, or write the folder again"
            )
    unknown = sorted(set(tensors) - set(expected))
    if unknown:
        raise ModelFolderError(
            f"{path}: tensor {unknown[0]!r} (and {len(unknown) - 1} more) has no place in the architecture: the file "
            "belongs to another model"
        )


def sha256(path: Path) -> str:
    """The digest of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
