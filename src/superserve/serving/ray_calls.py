"""What a pool of actors wants of Ray: ``ray_cluster.py`` does it."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

from superserve.serving.ray_kinds import Kind, Room
from superserve.serving.ray_models import ModelSource


class Actor(Protocol):
    """An actor that runs a `superserve.serving.ray_actor.RayWorker`. Any thread may call it."""

    def call(self, method: str, *arguments: object) -> "Future[Any]":
        """Have it run one of its methods; what cannot even be sent is an error of the future, too."""

    def kill(self) -> None:
        """End it. Blocks."""


class Cluster(Protocol):
    """Nodes, and actors on them. Every method blocks unless it says otherwise; any thread may call them.

    Attributes:
        kinds: of the workers that it is for; they are named by their place in this sequence.
    """

    kinds: Sequence[Kind]

    def rooms(self) -> Sequence[Room]:
        """How many workers of each kind would fit in, when all kinds before it have what they need."""

    def resources(self) -> Mapping[str, float]:
        """What there is of what workers need."""

    def draining(self) -> set[str]:
        """The nodes that are about to go, by Ray's ids."""

    def create(self, kind: int) -> Actor:
        """An actor, which Ray will start when and where there is room for it, but on no node that it was refused."""

    def put(self, source: ModelSource) -> object:
        """What stands for a model's files as an argument: made once, fetched once per node."""

    def refuse(self, node: str, kind: int) -> None:
        """A worker cannot start on a node: leave that out for a while, for workers of its kind."""

    def why(self, error: BaseException) -> str:
        """What an error of a call says, in a line. Does not block."""
