"""The connection to a Ray cluster: the one place in the router's process that calls Ray.

Everything here blocks: whoever has an event loop calls it in a thread, except for `_RayActor.call` with what is small.
"""

import os
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from threading import Event, Lock, Thread
from types import ModuleType
from typing import Any, Final

import numpy as np

from superserve import __version__
from superserve.clock import NS_PER_S, monotonic_ns
from superserve.errors import ConfigError
from superserve.serving import ray_models
from superserve.serving.ray_actor import LIVE_GROUP, RayWorker
from superserve.serving.ray_calls import Actor
from superserve.serving.ray_kinds import Kind, Room, filled, kinds_of, rooms
from superserve.serving.ray_models import ModelSource
from superserve.serving.worker_environment import worker_environment

#: By default Ray sends along what has up to 100 KB; the rest goes through its object store, which takes 3.1 ms instead
#: of 1.2 for 192 KB (round trip, p50, 2-core machine).
_ENVIRONMENT: Final = {"RAY_max_direct_call_object_size": str(1 << 20)}
#: Somebody who listens at all answers sooner.
_CONNECT_S: Final = 5.0
#: Ray itself gives up after a minute, or not at all. Starting a cluster takes half of that on a busy machine.
_INIT_S: Final = 120.0
#: A node on which a worker could not start is tried again after so long: somebody may have mended it.
_REFUSED_NS: Final = 30 * NS_PER_S
#: Ray has put it on every node.
_NODE_LABEL: Final = "ray.io/node-id"
_CLIENT_PREFIX: Final = "ray://"
_MOST_CHARACTERS: Final = 400


@contextmanager
def connected(address: str | None, device: str) -> Iterator["RayCluster"]:
    """A cluster that this process is connected to inside the block.

    Args:
        address: ``host:port`` of its head; None: what ``RAY_ADDRESS`` names, else the one that runs on this machine,
            else one that is started on this machine and ends with the block.
        device: what workers run on; of several, each worker on one.

    Raises:
        ConfigError: if Ray is not installed, does not answer in time, or does not take us.
    """
    kinds = kinds_of(device)
    ray = _import_ray()
    if address is not None:
        _check_reachable(address)
    # Ray reads them when it starts. Of a cluster that is started here, nothing is told to others.
    for name, value in {**_ENVIRONMENT, "RAY_USAGE_STATS_ENABLED": "0"}.items():
        os.environ.setdefault(name, value)

    connection = _Connection(ray, address)
    connection.open()
    try:
        yield RayCluster(ray, kinds)
    finally:
        connection.close()


class _Connection:
    """Opens and closes the connection in a thread of its own, which can be left behind if Ray does not answer.

    A cluster that is started here ends with the thread that started it: the kernel sees to that. So it stays.
    """

    def __init__(self, ray: ModuleType, address: str | None) -> None:
        self._ray = ray
        self._address = address
        self._opened: Future[None] = Future()
        self._close = Event()
        self._thread = Thread(target=self._hold, daemon=True, name="superserve-ray")

    def open(self) -> None:
        """Connect.

        Raises:
            ConfigError: if that fails, or takes too long.
        """
        where = f"--ray-address (workers.ray_address) {self._address or 'auto'}"
        self._thread.start()
        try:
            error = self._opened.exception(_INIT_S)
        except TimeoutError:
            raise ConfigError(f"{where}: Ray did not answer within {_INIT_S:g} s") from None
        if error is not None:
            raise ConfigError(f"{where}: {_line(error)}") from error

    def close(self) -> None:
        """End it, and with it what was started for it."""
        self._close.set()
        self._thread.join()

    def _hold(self) -> None:
        try:
            # Whoever wants Ray's dashboard has a cluster; one that is started here has none.
            self._ray.init(self._address, include_dashboard=False, log_to_driver=False, configure_logging=False)
        except BaseException as error:  # noqa: BLE001  (told to whoever waits)
            self._opened.set_exception(error)
            return
        self._opened.set_result(None)
        self._close.wait()
        self._ray.shutdown()


class RayCluster:
    """A cluster that this process is connected to; see `superserve.serving.ray_calls.Cluster`.

    Args:
        ray: the module.
        kinds: of the workers that it is for.

    Attributes:
        kinds: the same.
    """

    def __init__(self, ray: ModuleType, kinds: Sequence[Kind]) -> None:
        self.kinds = kinds
        self._ray = ray
        self._class = ray.remote(concurrency_groups={LIVE_GROUP: 1})(RayWorker)
        self._refused: dict[tuple[str, int], int] = {}
        """By node and kind: until when."""
        self._put: dict[str, Any] = {}
        self._lock = Lock()

    def rooms(self) -> Sequence[Room]:
        """See `Cluster.rooms`."""
        return rooms(self.kinds, self._nodes().values(), self._ray.available_resources())

    def resources(self) -> Mapping[str, float]:
        """See `Cluster.resources`."""
        found = self._ray.cluster_resources()
        return {name: found.get(name, 0) for kind in self.kinds for name in kind.needs}

    def draining(self) -> set[str]:
        """See `Cluster.draining`."""
        # Ray Serve and Ray Train ask the same; there is no public way.
        return set(self._ray._private.state.state.get_draining_nodes())  # noqa: SLF001

    def create(self, kind: int) -> Actor:
        """See `Cluster.create`."""
        special = dict(self.kinds[kind].needs)
        options: dict[str, Any] = {
            "num_cpus": special.pop("CPU"),
            "num_gpus": special.pop("GPU", 0),
            "resources": special,
            "scheduling_strategy": "SPREAD",
            "max_restarts": 0,  # what comes in its place has to say who it is, and to load
            "runtime_env": {"env_vars": {**_ENVIRONMENT, **worker_environment()}},
        }
        # Of two kinds that a node could run, Ray knows not which one the node should be kept for.
        kept = {node for node, has in self._nodes().items() if not filled(self.kinds, has)[kind]}
        left_out = sorted(kept.union(self._still_refused(kind)))
        if left_out:
            options["label_selector"] = {_NODE_LABEL: f"!in({','.join(left_out)})"}
        return _RayActor(self._ray, self._class.options(**options).remote())

    def put(self, source: ModelSource) -> object:
        """See `Cluster.put`."""
        with self._lock:
            if source.model_hash not in self._put:
                files = {name: file.view(np.ndarray) for name, file in ray_models.read(source).items()}
                self._put[source.model_hash] = self._ray.put(files)
            return self._put[source.model_hash]

    def refuse(self, node: str, kind: int) -> None:
        """See `Cluster.refuse`."""
        with self._lock:
            self._refused[node, kind] = monotonic_ns() + _REFUSED_NS

    def why(self, error: BaseException) -> str:
        """See `Cluster.why`."""
        return _line(error)

    def _still_refused(self, kind: int) -> list[str]:
        now_ns = monotonic_ns()
        with self._lock:
            self._refused = {refused: until_ns for refused, until_ns in self._refused.items() if until_ns > now_ns}
            return [node for node, of_kind in self._refused if of_kind == kind]

    def _nodes(self) -> Mapping[str, Mapping[str, float]]:
        """What each node has, taken or not."""
        return {node["NodeID"]: node["Resources"] for node in self._ray.nodes() if node["Alive"]}


class _RayActor:
    """See `superserve.serving.ray_calls.Actor`."""

    def __init__(self, ray: ModuleType, handle: Any) -> None:  # noqa: ANN401  (Ray makes its class)
        self._ray = ray
        self._handle = handle

    def call(self, method: str, *arguments: object) -> "Future[Any]":
        """See `Actor.call`."""
        try:
            bound = getattr(self._handle, method)
            if method == LIVE_GROUP:
                bound = bound.options(concurrency_group=LIVE_GROUP)
            # Of the ways to hear of an answer this one took the least processor time, by a little.
            answer: Future[Any] = bound.remote(*arguments).future()
        except Exception as error:  # noqa: BLE001  (whatever Ray raises, the worker is of no use)
            answer = Future()
            answer.set_exception(error)
        return answer

    def kill(self) -> None:
        """See `Actor.kill`."""
        self._ray.kill(self._handle)


def _import_ray() -> ModuleType:
    try:
        import ray  # noqa: PLC0415  (an extra)
    except ImportError as error:
        raise ConfigError(
            f"--pool ray (workers.pool): {error}: install it, here and on every node: pip install 'superserve[ray]'"
        ) from None
    module: ModuleType = ray
    return module


def _check_reachable(address: str) -> None:
    """Whether anybody listens there, as far as that can be told before Ray tries, which may take it minutes.

    Raises:
        ConfigError: if not, or if that is no address of a cluster's head.
    """
    where = f"--ray-address (workers.ray_address) {address!r}"
    if address.startswith(_CLIENT_PREFIX):
        raise ConfigError(
            f"{where}: SuperServe has to run on a node of the cluster: start Ray there (`ray start --address=...`), "
            "and give host:port of its head"
        )
    host, colon, port = address.rpartition(":")
    if address == "auto":
        return
    if not colon or not port.isdecimal():
        raise ConfigError(f"{where} must be host:port of the cluster's head, or 'auto'")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(f"{where}: nobody answers there ({error}): is the head up (`ray start --head`)?") from None


def _line(error: BaseException) -> str:
    """The part of Ray's pages of text that says what was wrong."""
    text = " ".join(str(error).split())
    if re.search(r"No module named '?superserve", text):
        return f"SuperServe is not installed on that node: pip install 'superserve[ray]=={__version__}' there"
    dead = re.search(r"The actor is dead because (.*)", text)
    return (dead[1] if dead else text or type(error).__name__)[:_MOST_CHARACTERS]
