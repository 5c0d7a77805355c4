"""Packed weights in a file: written once, mapped by every process, so that a machine has one copy of them.

oneDNN keeps a weight in blocks that suit the processor, and torch hides them in opaque tensors. Their bytes and
oneDNN's description of them can be had, and the entry point through which code of AOTInductor loads its own packed
weights (``aoti_torch_create_tensor_from_blob_v2``, of torch's C interface) makes a tensor on mapped memory of both.
Source of the calls: torch, ``torch/csrc/inductor/aoti_torch/c/shim.h`` and ``torch/_inductor/codecache.py``.
"""

import ctypes
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from superserve.errors import ConfigError
from superserve.supernet.packed.program import Constant, Packed, Plain

_onednn = torch.ops.mkldnn

#: A cache line, and the width of the widest vectors: every tensor begins at a multiple of it.
ALIGNMENT: Final = 64

_DTYPES: Final = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
    "int64": torch.int64,
    "int32": torch.int32,
    "uint8": torch.uint8,
    "int8": torch.int8,
    "bool": torch.bool,
}


def dtype_name(dtype: torch.dtype) -> str:
    """As programs have it.

    Raises:
        ConfigError: if they cannot hold tensors of it.
    """
    name = str(dtype).removeprefix("torch.")
    if name not in _DTYPES:
        raise ConfigError(f"a constant of {dtype} cannot be packed: serve this model with another engine")
    return name


class WeightsWriter:
    """Appends tensors to a weights file."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("xb")

    def add(self, tensor: Tensor) -> Constant:
        """Write a packed or a plain tensor; returns where it lies."""
        offset = self._file.tell()
        dtype, shape = dtype_name(tensor.dtype), list(tensor.shape)
        if tensor.layout == torch._mkldnn:  # type: ignore[attr-defined]  # noqa: SLF001 (the layout's only name)
            nbytes = int(_onednn._nbytes(tensor))  # noqa: SLF001 (as torch's own packaging of weights)
            layout = bytes(_onednn._get_mkldnn_serialized_md(tensor).numpy())  # noqa: SLF001
            self._write(ctypes.string_at(int(_onednn.data_ptr(tensor)), nbytes))
            return Packed(dtype=dtype, shape=shape, offset=offset, nbytes=nbytes, layout=layout)
        plain = tensor.detach().contiguous()
        self._write(ctypes.string_at(plain.data_ptr(), plain.nbytes))
        return Plain(dtype=dtype, shape=shape, offset=offset)

    def close(self) -> int:
        """Bring the file to the disk; returns its size."""
        size = self._file.tell()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return size

    def _write(self, content: bytes) -> None:
        self._file.write(content + bytes(-len(content) % ALIGNMENT))


class MappedWeights:
    """A weights file in this process's address space; its tensors are good for as long as it is held.

    Args:
        path: the file.
        nbytes: its size.
    """

    def __init__(self, path: Path, nbytes: int) -> None:
        # Mapped privately, as safetensors maps weights: pages are shared until somebody writes, which nobody does.
        self._memory = torch.from_file(str(path), shared=False, size=nbytes, dtype=torch.uint8) if nbytes else None

    def tensor(self, constant: Plain | Packed) -> Tensor:
        """A constant on the mapped memory.

        Raises:
            ValueError: if it lies outside of the file.
        """
        dtype = _DTYPES[constant.dtype]
        nbytes = constant.nbytes if isinstance(constant, Packed) else _nbytes(constant.shape, dtype)
        if self._memory is None or not 0 <= constant.offset <= self._memory.numel() - nbytes:
            raise ValueError(f"{nbytes} bytes at {constant.offset} lie outside of the file")
        part = self._memory[constant.offset : constant.offset + nbytes]
        if isinstance(constant, Plain):
            return part.view(dtype).view(constant.shape)
        return _opaque(part.data_ptr(), constant.shape, dtype, constant.layout)


def _nbytes(shape: Sequence[int], dtype: torch.dtype) -> int:
    return torch.Size(shape).numel() * dtype.itemsize


def _opaque(address: int, shape: Sequence[int], dtype: torch.dtype, layout: bytes) -> Tensor:
    """A tensor on packed memory, which must outlive it."""
    library = _library()
    numbers = ctypes.c_int64 * len(shape)
    handle = ctypes.c_void_p()
    failed = library.aoti_torch_create_tensor_from_blob_v2(
        ctypes.c_void_p(address),
        ctypes.c_int64(len(shape)),
        numbers(*shape),
        numbers(*torch.empty(*shape, device="meta").stride()),
        ctypes.c_int64(0),
        ctypes.c_int32(getattr(library, f"aoti_torch_dtype_{dtype_name(dtype)}")()),
        ctypes.c_int32(library.aoti_torch_device_type_cpu()),
        ctypes.c_int32(-1),
        ctypes.byref(handle),
        ctypes.c_int32(library.aoti_torch_layout__mkldnn()),
        (ctypes.c_uint8 * len(layout)).from_buffer_copy(layout),
        ctypes.c_int64(len(layout)),
    )
    if failed or handle.value is None:
        raise ConfigError("torch makes no tensor of a packed weight: serve with another engine")
    new_capsule = ctypes.pythonapi.PyCapsule_New
    new_capsule.restype = ctypes.py_object
    new_capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    tensor: Tensor = torch._C._aoti.alloc_tensor_by_stealing_from_void_ptr(  # noqa: SLF001 (the way in that torch's loader of compiled code has)
        new_capsule(handle.value, None, None)
    )
    return tensor


@cache
def _library() -> ctypes.CDLL:
    """Torch's library for processors, which this process has loaded already."""
    return ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))


def check_torch() -> None:
    """See to it that this torch can pack weights and map them.

    Raises:
        ConfigError: naming what it lacks.
    """
    wanted = ("_reorder_convolution_weight", "_reorder_linear_weight", "_nbytes", "_get_mkldnn_serialized_md")
    lacking = [name for name in wanted if not hasattr(_onednn, name)]
    if not hasattr(_library(), "aoti_torch_create_tensor_from_blob_v2"):
        lacking.append("aoti_torch_create_tensor_from_blob_v2")
    if lacking:
        raise ConfigError(
            f"torch {torch.__version__} lacks {', '.join(lacking)}, which packing needs: serve with --engine eager or "
            "compiled"
        )
