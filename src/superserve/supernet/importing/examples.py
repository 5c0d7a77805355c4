"""Examples for calibration and for measuring accuracy: an archive of arrays, or a folder of images."""

import zipfile
import zlib
from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from superserve.errors import CheckpointError, ConfigError
from superserve.model_folder import ModelConfig, TensorSpec

Array = np.ndarray[Any, Any]

_SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png"})

#: Images are shrunk to this much more than the size wanted, then their centre is cut out: ImageNet's usual validation
#: transform, and OFA's.
_CROP: Final = 0.875


class Examples(NamedTuple):
    """Rows of every input of a model, and their classes where they are known."""

    inputs: tuple[Array, ...]
    labels: Array | None

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(self.inputs[0])


def load_examples(path: Path, config: ModelConfig, *, limit: int | None = None, seed: int = 0) -> Examples:
    """Read examples from an ``.npz`` archive or a folder of images.

    An archive holds one array (n, *row_shape) per input of the model, by its name (or ``inputs`` if there is one
    input), and optionally ``labels`` (n,), integers. A folder holds JPEG or PNG images; if they lie in subfolders,
    these are the classes, in alphabetical order.

    Args:
        path: the archive or folder.
        config: of the model.
        limit: read no more rows than this, drawn by ``seed``; None means all.
        seed: of the draw.

    Raises:
        CheckpointError: if the data is missing, unreadable, or does not fit the model's inputs.
    """
    if path.is_dir():
        return _folder(path, config, limit, seed)
    if path.is_file():
        return _archive(path, config, limit, seed)
    raise CheckpointError(f"{path}: no such file or folder of examples")


def _archive(path: Path, config: ModelConfig, limit: int | None, seed: int) -> Examples:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise CheckpointError(f"{path}: not a readable .npz archive of plain arrays ({error})") from None
    if len(config.inputs) == 1 and "inputs" in arrays:
        arrays[config.inputs[0].name] = arrays["inputs"]
    inputs = tuple(_checked(path, arrays, tensor) for tensor in config.inputs)
    labels = arrays.get("labels")
    rows = len(inputs[0])
    if any(len(array) != rows for array in inputs) or (labels is not None and labels.shape != (rows,)):
        raise CheckpointError(f"{path}: arrays have different numbers of rows")
    chosen = _chosen(rows, limit, seed)
    return Examples(
        tuple(array[chosen] for array in inputs),
        None if labels is None else _classes(path, labels[chosen], len(config.labels)),
    )


def _checked(path: Path, arrays: dict[str, Array], tensor: TensorSpec) -> Array:
    if tensor.name not in arrays:
        raise CheckpointError(f"{path}: array {tensor.name!r} is missing; found {sorted(arrays)}")
    array = arrays[tensor.name]
    if array.shape[1:] != tensor.row_shape or array.dtype != tensor.dtype or not len(array):
        raise CheckpointError(
            f"{path}: array {tensor.name!r} is {array.dtype} {array.shape}, but the model takes "
            f"{tensor.dtype} {('n', *tensor.row_shape)}"
        )
    return array


def _classes(path: Path, labels: Array, count: int) -> Array:
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0 or labels.max() >= count:
        raise CheckpointError(f"{path}: labels must be integers from 0 to {count - 1}")
    return labels


def _chosen(rows: int, limit: int | None, seed: int) -> Array:
    order = np.arange(rows)
    if limit is None or limit >= rows:
        return order
    return np.sort(np.random.default_rng(seed).permutation(order)[:limit])


def _folder(path: Path, config: ModelConfig, limit: int | None, seed: int) -> Examples:
    if len(config.inputs) != 1 or len(config.inputs[0].row_shape) != 3:
        raise CheckpointError(f"{path}: a folder holds images, which this model does not take: give an .npz archive")
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in _SUFFIXES)
    if not files:
        raise CheckpointError(f"{path}: no JPEG or PNG image in this folder")
    files = [files[index] for index in _chosen(len(files), limit, seed)]
    names = sorted(folder.name for folder in path.iterdir() if folder.is_dir())
    classes = [file.relative_to(path).parts[0] for file in files if file.parent != path]
    images = np.stack([_image(file, config.inputs[0]) for file in files])
    if len(classes) != len(files) or len(names) != len(config.labels):
        return Examples((images,), None)
    return Examples((images,), np.array([names.index(name) for name in classes], dtype=np.int64))


def _image(path: Path, tensor: TensorSpec) -> Array:
    """One image as the model takes it: shrunk, its centre cut out."""
    try:
        from PIL import Image, UnidentifiedImageError  # noqa: PLC0415 (only folders of images need it)
    except ImportError:
        raise ConfigError("reading images needs Pillow: pip install pillow") from None
    channels_last = tensor.dtype == np.uint8
    height, width = tensor.row_shape[:2] if channels_last else tensor.row_shape[1:]
    try:
        with Image.open(path) as file:
            image = file.convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise CheckpointError(f"{path}: not a readable image ({error})") from None
    scale = max(ceil(height / _CROP) / image.height, ceil(width / _CROP) / image.width)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    pixels = np.asarray(image.crop((left, top, left + width, top + height)))
    if channels_last:
        return pixels
    return np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32) / 255


def batches(inputs: Sequence[Array], size: int) -> list[list[Array]]:
    """Consecutive batches of at most ``size`` rows."""
    return [[array[start : start + size] for array in inputs] for start in range(0, len(inputs[0]), size)]
