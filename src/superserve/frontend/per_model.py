"""What a front end keeps for each model that is served."""

from collections.abc import Callable
from typing import Generic, TypeVar

from superserve.serving.dataplane import DataPlane, ServedModel

_Kept = TypeVar("_Kept")


class PerModel(Generic[_Kept]):
    """One thing per served model, made when it is first asked for and dropped when the model has gone.

    Args:
        plane: what is served.
        make: makes it for a model.
    """

    def __init__(self, plane: DataPlane, make: Callable[[ServedModel], _Kept]) -> None:
        self._plane = plane
        self._make = make
        self._kept: dict[ServedModel, _Kept] = {}

    def of(self, model: ServedModel) -> _Kept:
        """That of a model."""
        kept = self._kept.get(model)
        if kept is None:
            for gone in self._kept.keys() - set(self._plane.models.values()):
                del self._kept[gone]
            kept = self._kept[model] = self._make(model)
        return kept
