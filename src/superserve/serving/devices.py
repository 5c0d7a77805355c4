"""What ``--device`` names: a real device, or one that is emulated from a profile; and what workers run there."""

from typing import Final

from superserve.engine import EngineChoice
from superserve.model_folder import ModelFolder
from superserve.serving.emulated import emulated_workers
from superserve.serving.ipc import WorkerSpec

CPU: Final = "cpu"
CUDA: Final = "cuda"
_EMULATED_PREFIX: Final = "emulated:"


def emulated_profile(device: str) -> str | None:
    """The profile (a bundled name or a file) that a device emulates; None for a real device."""
    return device.removeprefix(_EMULATED_PREFIX) if device.startswith(_EMULATED_PREFIX) else None


def workers_for(folder: ModelFolder, choice: EngineChoice, seed: int = 0) -> WorkerSpec:
    """What the workers of a model run.

    Args:
        folder: the model.
        choice: by `choose_engine`.
        seed: of emulated latencies.

    Raises:
        ModelFolderError: if the folder's ``config.json`` cannot be used.
        ProfileError: if the emulated device's profile cannot be read.
    """
    config, emulated = folder.config, emulated_profile(choice.device)
    if emulated is not None:
        return emulated_workers(config, emulated, seed)
    return WorkerSpec(
        engine="superserve.serving.engines:create",
        options={"folder": str(folder.path.resolve()), "bundled": folder.bundled, **choice._asdict()},
        inputs=config.inputs,
        outputs=config.outputs,
        max_rows=config.max_batch_size,
        warm_batches=batch_grid(config.max_batch_size),
        inheritable=(choice.device, choice.engine) == (CPU, "eager"),  # of compiled code it has not been tried
    )


def batch_grid(max_batch_size: int) -> tuple[int, ...]:
    """The batch sizes that are profiled and warmed up: powers of two below the largest, and the largest."""
    powers = [1 << bit for bit in range(max_batch_size.bit_length()) if 1 << bit < max_batch_size]
    return (*powers, max_batch_size)
