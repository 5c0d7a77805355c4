"""A Ray cluster whose nodes are hosts of their own, as far as one machine can play several.

Each has a network stack of its own (reached through a `Network`), a name, shared memory, a folder of Ray's, and a
monotonic clock.
"""

import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from support.network import Network, NoNetworkError
from support.ray_nodes import STORE_BYTES, Nodes, wait_for

#: How far a host's clock is ahead of that of the host before: eleven days. It starts with a machine.
CLOCK_AHEAD_S: Final = 1_000_000

#: $0: a name; the rest: Ray's command. Mounts are seen by nobody else.
_AS_A_HOST: Final = """
hostname "$0" && mount -t tmpfs tmpfs /dev/shm && mount -t tmpfs tmpfs /tmp/ray && exec "$@"
"""


class RayHosts:
    """A head without processors, on which servers run, and hosts with one processor each for workers; a context.

    Args:
        count: so many hosts.
    """

    def __init__(self, count: int) -> None:
        self.network = Network(count)
        self.nodes: Nodes
        self._started: list[subprocess.Popen[bytes]] = []
        self._stack = ExitStack()

    @property
    def address(self) -> str:
        """Of the head."""
        return self.nodes.address

    def __enter__(self) -> Self:
        """Start it.

        Raises:
            NoNetworkError: if this machine cannot play several.
        """
        with self._stack:
            self._stack.callback(self._see_their_end)
            self._stack.enter_context(self.network)
            self.nodes = Nodes(self.network.addresses[0])
            self._stack.callback(self.nodes.cluster.shutdown)
            self._try()
            for host in self.network.namespaces:
                self._start(host)
            wait_for(lambda: len(self.node_ids()) == len(self.network.namespaces), "the hosts have joined", 120.0)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End all of it."""
        self._stack.close()

    @staticmethod
    def name(host: int) -> str:
        """What a host calls itself."""
        return f"host-{host}"

    def node_ids(self) -> Sequence[str]:
        """Of the hosts that Ray believes to be there."""
        nodes = self.nodes.cluster.global_state.node_table()
        return [node["NodeID"] for node in nodes if node["Alive"] and node["Resources"].get("CPU")]

    def join(self, host: int) -> None:
        """Have a host join the cluster again, as soon as Ray has ended what was left of it there."""
        before = len(self.node_ids())
        wait_for(lambda: not self.network.processes(host), "Ray's processes of a host that was given up end")
        self._start(host)
        wait_for(lambda: len(self.node_ids()) > before, "the host has joined", 120.0)

    def _try(self) -> None:
        """See to it that processes can be hosts."""
        tried = subprocess.run([*self._inside(1), "true"], capture_output=True, text=True, check=False)
        if tried.returncode:
            raise NoNetworkError(f"no namespaces of mounts, names or clocks: {tried.stderr.strip()}")

    def _start(self, host: int) -> None:
        command, none = [*self._inside(host), *self._ray(host)], subprocess.DEVNULL
        self._started.append(subprocess.Popen(command, stdin=none, stdout=none, stderr=none))

    def _see_their_end(self) -> None:
        for process in self._started:
            process.wait()

    def _inside(self, host: int) -> Sequence[str]:
        ahead = str(CLOCK_AHEAD_S * host)
        own = ("unshare", "--mount", "--uts", "--time", "--monotonic", ahead, "--boottime", ahead)
        return ("ip", "netns", "exec", self.network.namespaces[host], *own, "sh", "-c", _AS_A_HOST, self.name(host))

    def _ray(self, host: int) -> Sequence[str]:
        here = ("--address", self.address, "--node-ip-address", self.network.addresses[host])
        size = ("--num-cpus", "1", "--object-store-memory", str(STORE_BYTES))
        return (str(Path(sys.executable).parent / "ray"), "start", *here, *size, "--disable-usage-stats", "--block")
