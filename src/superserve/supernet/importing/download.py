"""Fetch public weights: only when asked to."""

import shutil
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from superserve.errors import CheckpointError, ConfigError
from superserve.model_folder import cache_folder
from superserve.supernet.importing.family import Family


def download(family: Family[Any, Any], variant: str) -> Path:
    """Fetch the files of a published variant into the user's cache, those that are not there yet.

    Args:
        family: of the model.
        variant: a key of its ``urls``.

    Returns:
        The folder they lie in.

    Raises:
        ConfigError: for an unknown variant, or a family without any.
        CheckpointError: if a file cannot be fetched.
    """
    if not family.urls:
        raise ConfigError(f"{family.name} has no published weights: give a file or a folder of your own")
    if variant not in family.urls:
        raise ConfigError(f"{family.name} has no published variant {variant!r}; there are {', '.join(family.urls)}")
    folder = cache_folder() / "checkpoints" / family.name / variant
    folder.mkdir(parents=True, exist_ok=True)
    for name, url in family.urls[variant].items():
        if not (folder / name).is_file():
            _fetch(url, folder / name)
    return folder


def _fetch(url: str, path: Path) -> None:
    scratch = path.with_name(f".{path.name}.part")
    try:
        with urllib.request.urlopen(url, timeout=60) as response, scratch.open("wb") as file:  # noqa: S310 (https, from our own table)
            shutil.copyfileobj(response, file)
    except (urllib.error.URLError, TimeoutError, OSError) as error:
        scratch.unlink(missing_ok=True)
        raise CheckpointError(f"{url}: {error}: fetch it by other means and give it with --checkpoint") from None
    scratch.replace(path)
