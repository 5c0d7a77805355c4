"""Where profiles are kept: one file per device in the model folder, or in the user's cache.

The latter holds those of bundled models, and of folders that cannot be written.
"""

import logging
import re
from itertools import chain
from pathlib import Path
from typing import Final

from superserve.engine import EngineChoice
from superserve.errors import ProfileError
from superserve.model_folder import ModelFolder, write_json
from superserve.profile import Device, Profile
from superserve.serving.devices import device_name

logger = logging.getLogger(__name__)

#: Workers run on one thread each; see ``serving/worker_process.py``.
THREADS: Final = 1


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


def find_profile(folder: ModelFolder, choice: EngineChoice) -> Profile | None:
    """The kept profile of a model on this machine, for workers with one thread that run this choice.

    One of another engine or dtype is not used, which the log says. A file that cannot be read, or that was measured
    before the model was changed, is ignored with a warning. The user's cache beats what came with the model.
    """
    wanted = (device_name(choice.device), choice.device, THREADS)
    for path in chain(*(sorted(place.glob("*.json")) for place in reversed(folder.profile_folders))):
        try:
            profile = Profile.load(path)
        except ProfileError as error:
            logger.warning("ignoring a profile: %s", error)
            continue
        device = profile.device
        if (device.name, device.kind, device.threads) != wanted:
            continue
        if profile.model_hash != folder.model_hash:
            logger.warning("ignoring %s: the model has changed since it was measured; profile again", path)
        elif (device.engine, device.dtype) == (choice.engine, choice.dtype):
            return profile
        else:
            logger.info("not planning with %s: workers run %s", path, choice)
    return None
