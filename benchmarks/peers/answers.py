"""Whether a server computes what it is asked to: its logits against those of the model in this process."""

import json
from typing import Any

import numpy as np

from peers.jobs import Job
from peers.model import load_model

Array = np.ndarray[Any, Any]


def check(job: Job, body: bytes) -> None:
    """Compare the last answer of a run.

    Raises:
        ValueError: if it is another one than the model's.
    """
    expected = load_model(job)(job.row())[0]
    found = logits(body, job.values)
    if found.shape != expected.shape or not np.allclose(found, expected, rtol=1e-3, atol=1e-4):
        raise ValueError(f"answered {found}, not {expected}")


def logits(body: bytes, values: int) -> Array:
    """The output tensor in an answer: numbers somewhere in JSON, or the last bytes of anything else."""
    if body[:1] in {b"{", b"["}:
        try:
            return np.array(_numbers(json.loads(body)), np.float32)
        except ValueError:  # JSON with a binary tensor behind it
            pass
    return np.frombuffer(body[-4 * values :], np.float32)


def _numbers(value: Any) -> list[float]:  # noqa: ANN401  (whatever JSON holds)
    if isinstance(value, dict):
        value = value.get("outputs", value.get("logits", value.get("data", value)))
    if isinstance(value, list) and value and isinstance(value[0], list | dict):
        return _numbers(value[0])
    return [float(number) for number in value]
