"""What a pool of actors wants of Ray: ``ray_cluster.py`` does it."""

from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any, NamedTuple, Protocol

from superserve.serving.ray_models import ModelSource


class Room(NamedTuple):
    """How many workers a cluster has the resources for."""

    total: int
    free: int
    """Of these, how many nobody has taken."""


class Actor(Protocol):
    """An actor that runs a `superserve.serving.ray_actor.RayWorker`. Any thread may call it."""

    def call(self, method: str, *arguments: object) -> "Future[Any]":
        """Have it run one of its methods; what cannot even be sent is an error of the future, too."""

    def kill(self) -> None:
        """End it. Blocks."""


class Cluster(Protocol):
    """Nodes, and actors on them. Every method blocks unless it says otherwise; any thread may call them.

    Attributes:
        needs: the resources of a worker, by Ray's names.
    """

    needs: Mapping[str, int]

    def room(self) -> Room:
        """How many workers would fit in."""

    def resources(self) -> Mapping[str, float]:
        """What there is of what a worker needs."""

    def draining(self) -> set[str]:
        """The nodes that are about to go, by Ray's ids."""

    def create(self) -> Actor:
        """An actor, which Ray will start when and where there is room for it, but on no node that was refused."""

    def put(self, source: ModelSource) -> object:
        """What stands for a model's files as an argument: made once, fetched once per node."""

    def refuse(self, node: str) -> None:
        """A worker cannot start on a node: leave it out for a while."""

    def why(self, error: BaseException) -> str:
        """What an error of a call says, in a line. Does not block."""
