"""How far a recipe is."""

from collections.abc import Callable
from typing import NamedTuple

from superserve.training.trainer import Progress as Step


class Progress(NamedTuple):
    """How far a recipe is in one of its phases."""

    phase: str
    """``train`` (epochs or steps), ``measure`` (candidates) or ``test`` (batches)."""
    done: int
    total: int
    loss: float | None = None
    """While training: the largest subnet's mean loss."""
    note: str | None = None
    """Something to say once, for logs: how an epoch went."""


Report = Callable[[Progress], None]


def duration(seconds: float) -> str:
    """A length of time in words: ``45 s``, ``12 min``, ``3 h 05 min``."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


class StepReport:
    """Says of each training step how far the run is, and of each epoch how it went and when all will be done."""

    def __init__(self, report: Report) -> None:
        self._report = report

    def __call__(self, step: Step) -> None:
        """Report a step."""
        note = None if step.epoch is None else f"{step.epoch.line()}; done in {duration(step.left_s)}"
        self._report(Progress("train", step.step, step.steps, step.loss, note))
