"""The engines that run subnets inside the supernet, by the names that tables have for them."""

from collections.abc import Callable
from typing import Final

from subnetact.progress import Progress
from superserve.engine import Engine
from superserve.model_folder import ModelFolder
from superserve.processor import has_bfloat16
from superserve.supernet.compile import compile_model
from superserve.supernet.compiled import CompiledEngine
from superserve.supernet.engine import EagerEngine

#: As tables have them.
SHORT: Final = {"float32": "fp32", "bfloat16": "bf16", "int8": "int8"}


def dtypes() -> tuple[str, ...]:
    """What this processor computes in without emulating it."""
    return ("float32", "bfloat16") if has_bfloat16() else ("float32",)


def build(folder: ModelFolder, progress: Progress) -> dict[str, float]:
    """Compile the folder's subnets; seconds of work by dtype."""
    seconds = {}
    for dtype in dtypes():
        told = _teller(progress, f"{folder.config.name} in {SHORT[dtype]}")
        built = compile_model(folder, dtype=dtype, report=told).build
        seconds[SHORT[dtype]] = sum(subnet.seconds for subnet in built.subnets)
    return seconds


def engines(folder: ModelFolder) -> dict[str, Engine]:
    """Every engine that this machine has, the one that always works first; `build` comes before."""
    found: dict[str, Engine] = {}
    for dtype in dtypes():
        found[f"actuated eager {SHORT[dtype]}"] = EagerEngine.load(folder, dtype)
    for dtype in dtypes():
        found[f"actuated compiled {SHORT[dtype]}"] = CompiledEngine.load(folder, dtype)
    return found


def _teller(progress: Progress, what: str) -> Callable[[int, int, str], None]:
    return lambda done, total, step: progress.say(f"{what}: {step} {done}/{total}")
