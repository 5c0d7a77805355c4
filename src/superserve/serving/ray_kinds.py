"""The kinds of workers of a Ray cluster: each is for one device, and needs of its node what Ray counts for that."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from superserve.errors import ConfigError
from superserve.serving.devices import CUDA, emulated_profile, single_devices

_CPU: Final = "CPU"
_GPU: Final = "GPU"


class Kind(NamedTuple):
    """Workers on one device."""

    device: str
    """``cpu``, ``cuda``, or ``emulated:PROFILE``."""
    needs: Mapping[str, int]
    """The resources of a worker, by Ray's names."""

    @property
    def told(self) -> str:
        """Its needs, in words."""
        return _listed(self.needs)

    def fits(self, resources: Mapping[str, float]) -> int:
        """How many workers of it so much is enough for."""
        return min(int(resources.get(name, 0) // need) for name, need in self.needs.items())


class Room(NamedTuple):
    """How many workers of a kind a cluster has the resources for."""

    total: int
    free: int
    """Of these, how many nobody has taken."""


def kinds_of(device: str) -> Sequence[Kind]:
    """The kinds of workers that ``--device`` asks for, in its order.

    A worker takes a processor, and one on a GPU that, too. Where several devices are emulated, a node has as many of
    one as it says it has of a resource that is called like the profile (a file's name without its ending).

    Raises:
        ConfigError: if two would need the same of a node.
    """
    devices = single_devices(device)
    kinds = [Kind(one, {_CPU: 1, **_special(one, alone=len(devices) == 1)}) for one in devices]
    for number, kind in enumerate(kinds):
        if any(other.needs == kind.needs for other in kinds[:number]):
            raise ConfigError(
                f"device {device!r}: two of its profiles have the same file name: nodes could not tell which"
            )
    return kinds


def rooms(kinds: Sequence[Kind], nodes: Iterable[Mapping[str, float]], free: Mapping[str, float]) -> Sequence[Room]:
    """The room for each kind in a cluster of nodes that have so much, of which so much is free in all of it."""
    total = [sum(counts) for counts in zip([0] * len(kinds), *(filled(kinds, node) for node in nodes), strict=True)]
    return [Room(*counts) for counts in zip(total, filled(kinds, free), strict=True)]


def wanted(kind: Kind, room: Room, held: int) -> int:
    """How many workers of a kind to have where so many have a place.

    The router needs a processor of its own, and nothing else that workers need.
    """
    routers = 1 if kind.needs.keys() == {_CPU} else 0
    return min(room.total - routers, held + room.free)


def no_room(kinds: Sequence[Kind], resources: Mapping[str, float]) -> str:
    """What to say where no worker of any kind fits into what all nodes together have."""
    needs = "; ".join(f"a worker on {kind.device} needs {kind.told}" for kind in kinds)
    return (
        f"no worker fits into the Ray cluster: {needs}; and all nodes together have {_listed(resources)}: add a node "
        "that has them, or choose another --device (workers.device)"
    )


def filled(kinds: Sequence[Kind], resources: Mapping[str, float]) -> Sequence[int]:
    """How many workers of each kind so much is enough for, when all kinds before it have taken theirs."""
    left = dict(resources)
    found = []
    for kind in kinds:
        fits = kind.fits(left)
        for name, need in kind.needs.items():
            left[name] = left.get(name, 0) - fits * need
        found.append(fits)
    return found


def _special(device: str, *, alone: bool) -> Mapping[str, int]:
    emulated = emulated_profile(device)
    if emulated is None:
        return {_GPU: 1} if device == CUDA else {}
    return {} if alone else {Path(emulated).stem: 1}


def _listed(resources: Mapping[str, float]) -> str:
    return ", ".join(f"{name}: {amount:g}" for name, amount in resources.items())
