"""The model folder: what `train` and `import` write and `serve` reads.

::

    config.json          architecture, task, labels, input and output tensors, preprocessing   (`ModelConfig`)
    model.safetensors    the shared weights, one copy
    norms.safetensors    SubnetNorm statistics per subnet
    subnets.json         the Pareto front: spec and accuracy of each subnet                    (`Front`)
    profiles/            latency profiles by device (bundled models: in the user's cache folder)

This module knows files and shapes, not torch: the router and the front end read a folder without importing it.
``supernet/hub.py`` turns a folder into a running model.
"""

import hashlib
import itertools
import os
import zipfile
import zlib
from collections.abc import Sequence
from functools import cached_property
from importlib import resources
from math import prod
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import numpy as np

from superserve.errors import ModelFolderError, UnknownModelError, UsageError
from superserve.subnet import SubnetSpec

FORMAT: Final = 1
CONFIG_FILE: Final = "config.json"
WEIGHTS_FILE: Final = "model.safetensors"
NORMS_FILE: Final = "norms.safetensors"
FRONT_FILE: Final = "subnets.json"
TEST_FILE: Final = "test.npz"

#: Open Inference Protocol datatypes that a model may declare, and numpy's names for them.
DTYPES: Final[dict[str, np.dtype[Any]]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),  # numpy has none: the bits
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}

#: The datatype whose elements differ in length. A model that declares it says how long they may be.
BYTES: Final = "BYTES"
_MAX_ELEMENT_BYTES: Final = 1 << 20


class TensorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Name, Open Inference Protocol datatype and shape of one tensor; the leading -1 is the batch dimension."""

    name: str
    """What clients call it."""
    datatype: str
    """In the protocol's words, such as ``FP32``."""
    shape: tuple[int, ...]
    """-1 for the rows, then fixed sizes."""
    max_bytes: int = 0
    """Of BYTES: the longest element, in bytes. Each element takes that much room in a batch; 0 for other datatypes."""
    range: tuple[int, int] | None = None
    """Least and greatest value that the model can take, such as the ids of a vocabulary; None: any. Integers only."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The numpy dtype, little-endian; of BYTES, fields ``size`` and ``content`` (``max_bytes`` long)."""
        if self.datatype == BYTES:
            return np.dtype([("size", "<u4"), ("content", f"V{self.max_bytes}")])
        return DTYPES[self.datatype]

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one row."""
        return self.shape[1:]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.dtype.itemsize * prod(self.row_shape)

    def packed(self, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Rows as a batch holds them: strings (numpy's bytes, text or objects) in cells of `dtype`, others as they are.

        Raises:
            UsageError: if a string is longer than the model takes.
        """
        if self.datatype != BYTES or rows.dtype == self.dtype:
            return rows
        elements = [element.encode() if isinstance(element, str) else bytes(element) for element in rows.flat]
        longest = max(map(len, elements), default=0)
        if longest > self.max_bytes:
            raise UsageError(
                f"input {self.name!r}: a text of {longest} bytes; the model takes {self.max_bytes} at most"
            )
        cells = np.zeros(len(elements), self.dtype)
        cells["size"] = [len(element) for element in elements]
        cells["content"] = np.array(elements, self.dtype["content"])
        return cells.reshape(rows.shape)

    def unpacked(self, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """The inverse of `packed`: of BYTES numpy's bytes, which drop zero bytes at the end; others as they are."""
        if self.datatype != BYTES:
            return rows
        elements = [bytes(content)[:size] for size, content in rows.reshape(-1).tolist()]
        return np.array(elements, np.bytes_).reshape(rows.shape)

    def longest(self, rows: int) -> np.ndarray[Any, Any]:
        """Rows that no others take a model longer than: of BYTES short words to the last byte; zeros of the rest."""
        found = np.zeros((rows, *self.row_shape), self.dtype)
        if self.datatype == BYTES:
            found["size"] = self.max_bytes
            found["content"] = (b"a " * self.max_bytes)[: self.max_bytes]
        return found


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of ``config.json``."""

    format: int
    """1."""
    library_name: str = "superserve"
    """What reads it."""
    name: str
    """What clients call the model."""
    version: str = "1"
    """The version that clients may ask for by name."""
    family: str
    """Name of the architecture's builder in ``supernet/zoo``."""
    architecture: dict[str, Any]
    """What the builder needs; checked by it."""
    task: str
    """What it does, in words, such as ``image-classification``."""
    dataset: str
    """What it was trained on, in words."""
    labels: tuple[str, ...]
    """Names of the classes, in the order of the output's columns."""
    inputs: tuple[TensorSpec, ...]
    """What a request carries."""
    outputs: tuple[TensorSpec, ...]
    """What an answer carries."""
    preprocessing: dict[str, Any]
    """What turns the input tensor into the network's input; checked by ``supernet/preprocess.py``."""
    max_batch_size: int = 16
    """Rows of a batch at most, and so of a request."""


class SubnetRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One subnet of the front."""

    id: str
    """What answers, metrics and explanations call it."""
    spec: SubnetSpec
    """What of the supernet runs."""
    accuracy: float
    """Top-1 in per cent on the split that chose the front: what policies plan with."""
    accuracy_n: int
    """Number of examples behind `accuracy`."""
    test_accuracy: float | None = None
    """Top-1 in per cent on data never used for any choice: what is reported."""
    test_n: int = 0
    """Number of examples behind `test_accuracy`."""
    macs: int = 0
    """Multiply-accumulates of one row."""


class Front(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of ``subnets.json``: subnets from the least to the most accurate."""

    format: int
    """1."""
    measured_on: str
    """Which data and split `SubnetRecord.accuracy` was measured on, in words."""
    tested_on: str = ""
    """The same for `SubnetRecord.test_accuracy`."""
    subnets: tuple[SubnetRecord, ...]
    """In strictly rising order of accuracy, with distinct ids."""


_T = TypeVar("_T")


class ModelFolder:
    """A model folder on disk, checked on first use.

    Args:
        path: the folder.
        bundled: whether it came with the package, so that nothing may be written into it.
    """

    def __init__(self, path: Path, *, bundled: bool = False) -> None:
        self.path = path
        self.bundled = bundled

    @classmethod
    def resolve(cls, name_or_path: str) -> "ModelFolder":
        """The folder at a path, or the bundled model of that name.

        Raises:
            UnknownModelError: if it is neither.
        """
        path = Path(name_or_path)
        if path.is_dir():
            return cls(path)
        bundled = bundled_models()
        if name_or_path in bundled:
            return cls(bundled[name_or_path], bundled=True)
        known = ", ".join(sorted(bundled)) or "none"
        raise UnknownModelError(f"model {name_or_path!r} is neither a folder nor a bundled model (bundled: {known})")

    @property
    def weights_path(self) -> Path:
        """The shared weights."""
        return self._file(WEIGHTS_FILE)

    @property
    def norms_path(self) -> Path:
        """The SubnetNorm statistics."""
        return self._file(NORMS_FILE)

    @cached_property
    def config(self) -> ModelConfig:
        """``config.json``, checked.

        Raises:
            ModelFolderError: if it is missing, unreadable or contradicts itself.
        """
        config = self._read(CONFIG_FILE, ModelConfig)
        self._check_format(CONFIG_FILE, config.format)
        if config.max_batch_size < 1:
            raise ModelFolderError(f"{self.path / CONFIG_FILE}: max_batch_size must be at least 1")
        for tensor in (*config.inputs, *config.outputs):
            self._check_tensor(tensor)
        if not config.inputs or not config.outputs:
            raise ModelFolderError(f"{self.path / CONFIG_FILE}: inputs and outputs must name a tensor each")
        return config

    @cached_property
    def front(self) -> Front:
        """``subnets.json``, checked.

        Raises:
            ModelFolderError: if it is missing, unreadable, empty or not in rising order of accuracy.
        """
        front = self._read(FRONT_FILE, Front)
        self._check_format(FRONT_FILE, front.format)
        ids = [record.id for record in front.subnets]
        if not ids or len(set(ids)) != len(ids):
            raise ModelFolderError(f"{self.path / FRONT_FILE}: subnets must be present and have distinct ids")
        accuracies = [record.accuracy for record in front.subnets]
        if any(a >= b for a, b in itertools.pairwise(accuracies)):
            raise ModelFolderError(f"{self.path / FRONT_FILE}: subnets must stand in strictly rising order of accuracy")
        return front

    @cached_property
    def model_hash(self) -> str:
        """SHA-256 over everything that changes what the model computes, in hex."""
        digest = hashlib.sha256()
        for name in (CONFIG_FILE, FRONT_FILE, WEIGHTS_FILE, NORMS_FILE):
            digest.update(name.encode())
            with self._file(name).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    @cached_property
    def weights_hash(self) -> str:
        """SHA-256 over the shared weights alone, in hex: subnets may change without them."""
        with self.weights_path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @property
    def profiles_path(self) -> Path:
        """Where latency profiles of this model are kept: of one that nothing may be written into, the user's cache."""
        return self.profile_folders[0 if self._is_writable else -1]

    @property
    def profile_folders(self) -> tuple[Path, ...]:
        """Where profiles of this model may be found: those that it came with, then those of the user's cache."""
        cached = cache_folder() / "profiles" / f"{self.config.name}-{self.model_hash[:12]}"
        return (cached,) if self.bundled else (self.path / "profiles", cached)

    @property
    def carries_test_data(self) -> bool:
        """Whether `test_data` finds any."""
        return (self.path / TEST_FILE).is_file()

    def test_data(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """The bundled test examples: inputs of the model's input shape (texts as numpy's bytes), and integer labels.

        Raises:
            ModelFolderError: if the folder carries none.
        """
        if not self.carries_test_data:
            raise ModelFolderError(f"{self.path} carries no {TEST_FILE}: add it, or use --data where that is offered")
        return load_examples(self.path / TEST_FILE)

    def example_inputs(
        self, rows: int, rng: np.random.Generator, inputs: Sequence[TensorSpec] | None = None
    ) -> list[np.ndarray[Any, Any]]:
        """Rows to try the model with: of the bundled test data if it fits, else random; at most ``rows`` of them.

        Random numbers are such that every model can take them: in 0..1, and 0 or 1 where they are whole (token ids
        have a limit); random texts are the longest. ``inputs`` are the tensors to make, by default those of
        ``config.json``.
        """
        inputs = self.config.inputs if inputs is None else inputs
        if len(inputs) == 1 and self.carries_test_data:
            found = inputs[0].packed(self.test_data()[0][:rows])
            if found.dtype == inputs[0].dtype and found.shape[1:] == inputs[0].row_shape:
                return [found]
        return [_random_rows(tensor, rows, rng) for tensor in inputs]

    @property
    def _is_writable(self) -> bool:
        """Whether profiles may be written into the folder; one that is mounted read-only may not, not even by root."""
        own = self.path / "profiles"
        return not self.bundled and os.access(own if own.exists() else self.path, os.W_OK)

    def _file(self, name: str) -> Path:
        path = self.path / name
        if not path.is_file():
            raise ModelFolderError(f"{path} is missing: write the folder again with `superserve train`")
        return path

    def _read(self, name: str, kind: type[_T]) -> _T:
        path = self._file(name)
        try:
            return msgspec.json.decode(path.read_bytes(), type=kind)
        except msgspec.MsgspecError as error:
            raise ModelFolderError(f"{path}: {error}") from None

    def _check_format(self, name: str, found: int) -> None:
        if found != FORMAT:
            raise ModelFolderError(
                f"{self.path / name}: format {found} is not {FORMAT}, the one that this version reads"
            )

    def _check_tensor(self, tensor: TensorSpec) -> None:
        where = f"{self.path / CONFIG_FILE}: tensor {tensor.name!r}"
        if tensor.datatype not in (*DTYPES, BYTES):
            raise ModelFolderError(f"{where}: datatype {tensor.datatype!r} is not one of {', '.join((*DTYPES, BYTES))}")
        lowest, highest = (1, _MAX_ELEMENT_BYTES) if tensor.datatype == BYTES else (0, 0)
        if not lowest <= tensor.max_bytes <= highest:
            raise ModelFolderError(f"{where}: max_bytes must be {lowest} to {highest} for {tensor.datatype}")
        if not tensor.shape or tensor.shape[0] != -1 or any(size < 1 for size in tensor.shape[1:]):
            raise ModelFolderError(f"{where}: shape must be -1 (the batch) followed by fixed sizes")
        whole = tensor.datatype.startswith(("INT", "UINT"))
        if tensor.range is not None and (not whole or tensor.range[0] > tensor.range[1]):
            raise ModelFolderError(f"{where}: range {list(tensor.range)} must rise, and be of an integer datatype")


def _random_rows(tensor: TensorSpec, rows: int, rng: np.random.Generator) -> np.ndarray[Any, Any]:
    if tensor.datatype == BYTES:
        return tensor.longest(rows)
    shape = (rows, *tensor.row_shape)
    values = rng.random(shape) if tensor.dtype.kind == "f" else rng.integers(0, 2, shape)
    return values.astype(tensor.dtype)


def load_examples(path: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Labelled examples from an .npz file: ``inputs`` (n, *row_shape) and ``labels`` (n,).

    Raises:
        ModelFolderError: if it cannot be read or lacks one of them.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return archive["inputs"], archive["labels"]
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ModelFolderError(f"{path}: not an .npz file with arrays inputs and labels: {error}") from None


def write_json(path: Path, value: msgspec.Struct) -> None:
    """Write a struct as indented JSON, renamed into place so that no reader sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_bytes(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")
    scratch.replace(path)


def bundled_models() -> dict[str, Path]:
    """Models that came with the package: name to folder."""
    root = Path(str(resources.files("superserve"))) / "bundled"
    return {path.parent.name: path.parent for path in sorted(root.glob(f"*/{CONFIG_FILE}"))}


def cache_folder() -> Path:
    """The user's cache folder for SuperServe: ``SUPERSERVE_CACHE``, else under ``XDG_CACHE_HOME``."""
    explicit = os.environ.get("SUPERSERVE_CACHE")
    if explicit:
        return Path(explicit)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "superserve"
