"""What ``--device`` names: a real device, or one that is emulated from a profile; and what workers run there."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from superserve.engine import IN_FLIGHT, EngineChoice
from superserve.errors import ConfigError
from superserve.model_folder import ModelFolder
from superserve.processor import cpu_name
from superserve.profile import BUNDLED
from superserve.serving.emulated import SEPARATOR, emulated_source, emulated_workers
from superserve.serving.ipc import Setup, WorkerSpec

CPU: Final = "cpu"
CUDA: Final = "cuda"
_EMULATED_PREFIX: Final = "emulated:"
_GPUS: Final = Path("/proc/driver/nvidia/gpus")


def emulated_profile(device: str) -> str | None:
    """The profile (a bundled name or a file) that a device emulates; None for a real device."""
    return device.removeprefix(_EMULATED_PREFIX) if device.startswith(_EMULATED_PREFIX) else None


def emulated_sources(device: str) -> Sequence[str]:
    """The profiles that workers emulate in turns, each a bundled one's name or an absolute path; none of a real device.

    Raises:
        ConfigError: if one is named twice.
    """
    emulated = emulated_profile(device)
    sources = [] if emulated is None else [_source(name) for name in emulated.split(SEPARATOR)]
    if len(set(sources)) != len(sources):
        raise ConfigError(f"device {device!r} names a profile twice: workers of one device need it once")
    return sources


def single_devices(device: str) -> Sequence[str]:
    """The devices that ``--device`` names, one by one: several have commas between them.

    Raises:
        ConfigError: if one is unknown, or named twice.
    """
    if emulated_profile(device):
        return [f"{_EMULATED_PREFIX}{source}" for source in emulated_sources(device)]
    devices = device.split(SEPARATOR)
    if not set(devices) <= {CPU, CUDA}:
        raise ConfigError(
            f"device {device!r} must be 'cpu', 'cuda', 'cuda,cpu' or 'emulated:PROFILE', PROFILE being a profile's "
            "file or 'r-profile'"
        )
    if len(set(devices)) < len(devices):
        raise ConfigError(f"device {device!r} names one twice")
    return devices


def on_device(spec: WorkerSpec, device: str) -> WorkerSpec:
    """The same workers on one of the devices that they may run on."""
    emulated = emulated_profile(device)
    key, value = ("device", device) if emulated is None else ("profiles", emulated)
    options = {**spec.options, key: value} if key in spec.options else spec.options
    return msgspec.structs.replace(spec, options=options)


def device_of(setup: Setup) -> str:
    """The name of what a worker runs on, asked where it runs: as profiles have it; of an emulated one, its profile."""
    options = setup.spec.options
    emulated = emulated_source(setup)
    return device_name(str(options.get("device", CPU))) if emulated is None else emulated


def device_name(device: str) -> str:
    """The name of what a real device is on this machine, as profiles have it.

    A GPU's is read from its driver: the router, which asks, knows no torch.
    """
    if device != CUDA:
        return cpu_name()
    for path in sorted(_GPUS.glob("*/information")):
        for line in path.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "Model" and value.strip():
                return value.strip()
    return CUDA


def _source(name: str) -> str:
    return name if name in BUNDLED else str(Path(name).resolve())


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
    config, emulated = folder.config, emulated_sources(choice.device)
    if emulated:
        return emulated_workers(config, emulated, seed)
    return WorkerSpec(
        engine="superserve.serving.engines:create",
        options={"folder": str(folder.path.resolve()), "bundled": folder.bundled, **choice._asdict()},
        inputs=config.inputs,
        outputs=config.outputs,
        max_rows=config.max_batch_size,
        warm_batches=batch_grid(config.max_batch_size),
        # Of compiled code it has not been tried. Packed subnets are mapped by each worker itself.
        inheritable=(choice.device, choice.behind.engine) == (CPU, "eager"),
        in_flight=IN_FLIGHT if choice.engine == "graphs" else 1,
    )


def batch_grid(max_batch_size: int) -> tuple[int, ...]:
    """The batch sizes that are profiled and warmed up: powers of two below the largest, and the largest."""
    powers = [1 << bit for bit in range(max_batch_size.bit_length()) if 1 << bit < max_batch_size]
    return (*powers, max_batch_size)
