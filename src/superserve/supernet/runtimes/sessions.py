"""Subnets opened in a static runtime: one thread, nothing pinned, nothing told to anybody.

The runtimes are imported here and nowhere else, when a session is opened: an installation without them knows none.
"""

import importlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from superserve.errors import ModelFolderError

Arrays = Sequence[np.ndarray[Any, Any]]

Session = Callable[[Arrays], list[np.ndarray[Any, Any]]]
"""Runs input arrays, contiguous; its outputs may be overwritten by the next call."""

#: The files of a subnet, by runtime: the first is opened, and finds the others beside it.
FILES: Final = {"onnxruntime": ("subnet.onnx",), "openvino": ("subnet.xml", "subnet.bin")}

_PRECISIONS: Final = {"float32": "f32", "bfloat16": "bf16"}

#: openvino tells a web service when it is imported, unless this module of its own is missing.
_OPENVINO_TELEMETRY: Final = "openvino_telemetry"

#: onnxruntime tells one from its first session on (1.29 and later), unless this is set before: its ``Privacy.md``.
_ONNXRUNTIME_OPT_OUT: Final = "ORT_DISABLE_TELEMETRY"


def open_session(runtime: str, dtype: str, path: Path) -> Session:
    """Open the subnet that lies in a folder, for one thread; some 20 (onnxruntime) to 200 ms.

    Args:
        runtime: one of `FILES`.
        dtype: what it computes in.
        path: the folder.

    Raises:
        ModelFolderError: if the runtime cannot be imported or refuses the file, saying why.
    """
    file = path / FILES[runtime][0]
    library = import_runtime(runtime)
    try:
        return _onnxruntime_session(library, file) if runtime == "onnxruntime" else _openvino_session(file, dtype)
    except Exception as error:  # onnxruntime's own are nothing more special
        raise ModelFolderError(f"{file}: {runtime} cannot open it: {type(error).__name__}: {error}") from error


def import_runtime(runtime: str) -> Any:  # noqa: ANN401 (published without types)
    """Import a runtime's library, so that it tells nobody of it.

    Raises:
        ModelFolderError: if that fails, saying why.
    """
    os.environ[_ONNXRUNTIME_OPT_OUT] = "1"
    try:
        with _missing(_OPENVINO_TELEMETRY):
            return importlib.import_module(runtime)
    except Exception as error:
        raise ModelFolderError(
            f"{runtime} cannot be imported: {type(error).__name__}: {error}: install it again, or pack with "
            f"`superserve pack --runtimes none`"
        ) from error


def _onnxruntime_session(onnxruntime: Any, file: Path) -> Session:  # noqa: ANN401 (as above)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    options.log_severity_level = 3  # errors
    # Activations come from the heap, which all that runs in a worker shares, instead of an arena that each session
    # keeps; under the allocator settings of workers that is as fast.
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    names = [tensor.name for tensor in session.get_inputs()]

    def run(inputs: Arrays) -> list[np.ndarray[Any, Any]]:
        fed = dict(zip(names, inputs, strict=True))
        try:
            outputs: list[np.ndarray[Any, Any]] = session.run(None, fed)
        except Exception as error:  # likewise; to others it is what torch would raise
            raise RuntimeError(f"onnxruntime: {error}") from error
        return outputs

    return run


def _openvino_session(file: Path, dtype: str) -> Session:
    settings = {
        "INFERENCE_NUM_THREADS": 1,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": _PRECISIONS[dtype],
        "ENABLE_CPU_PINNING": False,  # workers have a core of their own already
    }
    core = _openvino_core()
    request = core.compile_model(core.read_model(str(file)), "CPU", settings).create_infer_request()

    def run(inputs: Arrays) -> list[np.ndarray[Any, Any]]:
        # Shared: on the memory of the request's arrays, and views of the runtime's own.
        return list(request.infer(list(inputs), share_inputs=True, share_outputs=True).values())

    return run


def write_openvino(exported: Path, path: Path) -> None:
    """Convert an ONNX file to openvino's own format, whose weights processes map, into a folder.

    Raises:
        ModelFolderError: as `open_session`.
    """
    library = import_runtime("openvino")
    try:
        model = _openvino_core().read_model(str(exported))
        library.save_model(model, str(path / FILES["openvino"][0]), compress_to_fp16=False)
    except Exception as error:
        raise ModelFolderError(f"{exported}: openvino cannot convert it: {type(error).__name__}: {error}") from error


@cache
def _openvino_core() -> Any:  # noqa: ANN401 (as above)
    """One for all subnets of a process: it loads what runs on the processor."""
    return import_runtime("openvino").Core()


@contextmanager
def _missing(module: str) -> Iterator[None]:
    """Whoever imports a module meanwhile finds that it is not installed; what has imported it before keeps it."""
    before = sys.modules.get(module)
    sys.modules[module] = None  # type: ignore[assignment]  # as the documentation of the import system has it
    try:
        yield
    finally:
        del sys.modules[module]
        if before is not None:
            sys.modules[module] = before
