"""The ``config.json`` of a checkpoint folder as Hugging Face lays it out."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from superserve.errors import CheckpointError
from superserve.supernet.importing.family import Task

#: GLUE tasks about one text; all others are about pairs.
_SINGLE: Final = frozenset({"sst-2", "sst2", "cola"})


def read_settings(path: Path) -> dict[str, Any]:
    """The settings; empty if there is no such file.

    Raises:
        CheckpointError: if it is no JSON object.
    """
    if not path.is_file():
        return {}
    try:
        settings = json.loads(path.read_bytes())
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON ({error})") from None
    if not isinstance(settings, dict):
        raise CheckpointError(f"{path}: not a JSON object")
    return settings


def task_of(settings: Mapping[str, Any]) -> Task:
    """What settings say about the task."""
    name = str(settings.get("finetuning_task") or "")
    named = settings.get("id2label") or {}
    labels = tuple(str(named[key]) for key in sorted(named, key=int))
    if any(label.startswith("LABEL_") for label in labels):
        # Hugging Face's placeholder for labels that nobody named.
        labels = ()
    return Task(name, labels, pairs=bool(name) and name.lower() not in _SINGLE)
