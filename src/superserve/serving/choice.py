"""Which engine runs a model: the one place that decides, for serving, profiling, evaluating and the demo alike."""

import logging
from typing import get_args

from superserve.engine import INT8, PACKED, Dtype, EngineChoice, EngineName, one_copy_dtype
from superserve.errors import ConfigError
from superserve.model_folder import ModelFolder
from superserve.processor import has_bfloat16
from superserve.serving.devices import CPU, CUDA, emulated_profile
from superserve.serving.emulated import ENGINE_NAME as EMULATED
from superserve.serving.points_ahead import runs_of
from superserve.supernet.builds import KeptBuild, find_build
from superserve.supernet.compile import check_processor
from superserve.supernet.packed_store import has_packs
from superserve.supernet.right_answers import Runs, why_refused

logger = logging.getLogger(__name__)


def choose_engine(folder: ModelFolder, device: str = CPU, engine: str = "auto", dtype: str = "auto") -> EngineChoice:
    """Decide what runs a model on this machine.

    On the CPU, ``auto`` takes compiled code if a valid build is kept in the user's cache (of several dtypes the one
    that was faster when they were checked; float32 if they were equal), else eager float32; and the packed engine on
    top of either if subnets were packed in that dtype. Eager bfloat16 and CUDA run when they are asked for; on CUDA
    ``auto`` takes graphs. What is known to lose accuracy (``supernet/right_answers.py``) is not taken by ``auto``.
    int8 is never taken unasked, whatever was packed: its outputs differ by per cents. Who asks for it gets the packed
    engine, on top of what runs float32.

    Args:
        folder: the model; an emulated device does not look into it.
        device: ``cpu``, ``cuda``, or ``emulated:PROFILE``.
        engine: a wish, `EngineName`.
        dtype: a wish, `Dtype`.

    Raises:
        ConfigError: if a wish cannot be granted, naming what would help.
        ModelFolderError: if the folder lacks a file.
    """
    _check_known(engine, dtype)
    if emulated_profile(device) is not None:
        if (engine, dtype) != ("auto", "auto"):
            raise ConfigError(f"device {device!r} computes nothing: leave out --engine and --dtype")
        return EngineChoice(device, EMULATED, "none")
    if device == CUDA:
        return _choose_for_cuda(folder, engine, dtype)
    if device != CPU:
        raise ConfigError(f"device {device!r} is none of 'cpu', 'cuda' and 'emulated:PROFILE'")
    if engine == "graphs":
        raise ConfigError("engine 'graphs' runs on device 'cuda' only: leave out --engine, or add --device cuda")
    return _on_cpu(folder, engine, dtype)


def _check_known(engine: str, dtype: str) -> None:
    for what, wish, known in (("engine", engine, get_args(EngineName)), ("dtype", dtype, get_args(Dtype))):
        if wish not in known:
            raise ConfigError(f"{what} {wish!r} is not one of {', '.join(known)}")


def _on_cpu(folder: ModelFolder, engine: str, dtype: str) -> EngineChoice:
    check_processor(dtype)
    if dtype == INT8:
        if engine not in {"auto", PACKED}:
            raise ConfigError(f"engine {engine!r} does not compute in int8: use --engine packed, or another --dtype")
        behind = _on_one_copy(folder, "auto", one_copy_dtype(INT8))
        return EngineChoice(CPU, PACKED, INT8, fallback=behind.engine)
    one_copy = _on_one_copy(folder, engine, dtype)
    if engine == PACKED or (engine == "auto" and has_packs(folder, one_copy.dtype)):
        return one_copy._replace(engine=PACKED, fallback=one_copy.engine)
    return one_copy


def _on_one_copy(folder: ModelFolder, engine: str, dtype: str) -> EngineChoice:
    """What runs every subnet from the one copy of the weights."""
    builds = [] if engine == "eager" else _builds(folder, dtype)
    if engine == "auto":
        builds = [kept for kept in builds if _is_accurate(folder, Runs("compiled", kept.build.target.dtype))]
    if builds:
        return EngineChoice(CPU, "compiled", min(builds, key=lambda kept: kept.full_batch_us).build.target.dtype)
    if engine == "compiled":
        wanted = "" if dtype == "auto" else f" --dtype {dtype}"
        raise ConfigError(
            f"engine 'compiled': no code of {folder.path} for this machine is kept: run `superserve compile "
            f"{folder.config.name if folder.bundled else folder.path}{wanted}` first"
        )
    return EngineChoice(CPU, "eager", "float32" if dtype == "auto" else dtype)


def _choose_for_cuda(folder: ModelFolder, engine: str, dtype: str) -> EngineChoice:
    if engine in {"compiled", PACKED}:
        raise ConfigError(f"engine {engine!r} runs on device 'cpu' only: use --engine graphs with --device cuda")
    if dtype == INT8:
        raise ConfigError("dtype 'int8' is computed on device 'cpu' only: use float32 or bfloat16 with --device cuda")
    choice = EngineChoice(CUDA, "graphs" if engine == "auto" else engine, "float32" if dtype == "auto" else dtype)
    if engine == "auto" and not _is_accurate(folder, runs_of(choice)):
        return choice._replace(engine="eager")
    return choice


def _is_accurate(folder: ModelFolder, runs: Runs) -> bool:
    """Whether nothing is known against it; what ``auto`` does not take is told in a warning."""
    reason = why_refused(folder, runs)
    if reason:
        logger.warning("not taken by --engine auto: %s", reason)
    return not reason


def _builds(folder: ModelFolder, dtype: str) -> list[KeptBuild]:
    """The builds that may be used, float32 first."""
    usable = ("float32", "bfloat16") if has_bfloat16() else ("float32",)
    found = [find_build(folder, name) for name in (usable if dtype == "auto" else (dtype,))]
    return [kept for kept in found if kept is not None]
