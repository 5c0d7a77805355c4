"""Where profiles are kept: one file per device in the model folder, or in the user's cache for bundled models."""

import logging
import platform
import re
from pathlib import Path
from typing import Final

from superserve.errors import ProfileError
from superserve.model_folder import ModelFolder, write_json
from superserve.profile import Device, Profile

logger = logging.getLogger(__name__)

#: Workers run on one thread each; see ``serving/worker_process.py``.
THREADS: Final = 1


def cpu_name() -> str:
    """The processor's name as the operating system gives it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name" and value.strip():
                return value.strip()
    return platform.processor() or platform.machine()


def file_name(device: Device) -> str:
    """The name of a device's profile file."""
    words = f"{device.name} {device.threads}t {device.engine} {device.dtype}"
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-") + ".json"


def save_profile(folder: ModelFolder, profile: Profile) -> Path:
    """Keep a profile of a model; returns the file.

    Raises:
        ProfileError: if it was measured on another model.
    """
    if profile.model_hash != folder.model_hash:
        raise ProfileError(f"the profile was measured on another model than {folder.path} holds: profile again")
    path = folder.profiles_path / file_name(profile.device)
    write_json(path, profile)
    return path


def find_profile(folder: ModelFolder, engine: str = "eager") -> Profile | None:
    """The kept profile of a model on this machine's CPU, for workers with one thread and an engine.

    A file that cannot be read, or that was measured before the model was changed, is ignored with a warning.
    """
    for path in sorted(folder.profiles_path.glob("*.json")):
        try:
            profile = Profile.load(path)
        except ProfileError as error:
            logger.warning("ignoring a profile: %s", error)
            continue
        device = profile.device
        if (device.name, device.kind, device.threads, device.engine) != (cpu_name(), "cpu", THREADS, engine):
            continue
        if profile.model_hash == folder.model_hash:
            return profile
        logger.warning("ignoring %s: the model has changed since it was measured; profile again", path)
    return None
