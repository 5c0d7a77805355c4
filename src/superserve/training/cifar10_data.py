"""Read CIFAR-10: from packed JPEG files, or from the official binary archive.

Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
"""

import io
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

import numpy as np

from superserve.errors import CheckpointError, ConfigError
from superserve.model_folder import cache_folder
from superserve.training.data import Array, Split

LABELS: Final = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

Which = Literal["train", "test"]

#: Member files of the official archive, each of 10,000 records: one byte of label, then red, green and blue planes.
_BINARY: Final[dict[Which, tuple[str, ...]]] = {
    "train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    "test": ("test_batch.bin",),
}
_RECORD: Final = 1 + 3 * 32 * 32


def load_cifar10(data: Path, which: Which) -> Split:
    """Images (n, 32, 32, 3) uint8 and labels (n,) of one official part.

    Looks in ``data`` and ``data/cifar10`` for, in this order: ``cifar10_train.npz`` and ``cifar10_test.npz`` (JPEG
    files end to end: ``jpeg_bytes``, ``offsets``, ``labels``), the folder ``cifar-10-batches-bin``, and the official
    ``cifar-10-binary.tar.gz``. Decoded JPEG images are kept in the user's cache folder.

    Raises:
        ConfigError: if none of them is there, or packed files are and Pillow is not.
        CheckpointError: if a file is there and cannot be read.
    """
    for folder in (data, data / "cifar10"):
        for name, read in _readers(which).items():
            if (folder / name).exists():
                return _checked(folder / name, read)
    raise ConfigError(
        f"--data {data}: no cifar10_{which}.npz, cifar-10-batches-bin or cifar-10-binary.tar.gz in it or in its folder "
        "cifar10 (the archive: https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz)"
    )


def _readers(which: Which) -> dict[str, Callable[[Path], Split]]:
    return {
        f"cifar10_{which}.npz": _packed,
        "cifar-10-batches-bin": lambda path: _records([(path / name).read_bytes() for name in _BINARY[which]]),
        "cifar-10-binary.tar.gz": lambda path: _archive(path, which),
    }


def _checked(path: Path, read: Callable[[Path], Split]) -> Split:
    try:
        return read(path)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, tarfile.TarError) as error:
        raise CheckpointError(f"{path}: not a readable copy of CIFAR-10 ({error}): fetch it again") from None


def _archive(path: Path, which: Which) -> Split:
    parts = []
    with tarfile.open(path) as archive:
        for name in _BINARY[which]:
            member = archive.extractfile(f"cifar-10-batches-bin/{name}")
            if member is None:
                raise ValueError(f"{name} in it is not a file")
            parts.append(member.read())
    return _records(parts)


def _records(parts: list[bytes]) -> Split:
    records = np.frombuffer(b"".join(parts), np.uint8).reshape(-1, _RECORD)
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return Split(np.ascontiguousarray(images), records[:, 0].astype(np.int64))


def _packed(path: Path) -> Split:
    """Packed JPEG files, decoded once per version of the file."""
    stamp = path.stat()
    kept = cache_folder() / "data" / f"{path.stem}-{stamp.st_size}-{stamp.st_mtime_ns}.npy"
    with np.load(path, allow_pickle=False) as archive:
        labels = archive["labels"].astype(np.int64)
        if not kept.exists():
            _keep(kept, _decode(archive["jpeg_bytes"], archive["offsets"]))
    return Split(np.load(kept, allow_pickle=False), labels)


def _keep(path: Path, images: Array) -> None:
    """Renamed into place: several processes may do this at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.npy")
    np.save(scratch, images, allow_pickle=False)
    scratch.replace(path)


def _decode(content: Array, offsets: Array) -> Array:
    try:
        from PIL import Image  # noqa: PLC0415 (only packed JPEG files need it)
    except ImportError:
        raise ConfigError("decoding packed CIFAR-10 needs Pillow: pip install 'superserve[train]'") from None
    images = np.empty((len(offsets) - 1, 32, 32, 3), np.uint8)
    for row, image in enumerate(images):
        with Image.open(io.BytesIO(content[offsets[row] : offsets[row + 1]].tobytes())) as file:
            image[:] = np.asarray(file.convert("RGB"))
    return images
