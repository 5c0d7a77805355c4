"""A Ray cluster of several nodes on this machine."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: Ray's processes take long to start where others use the machine.
_START_S = 120
#: Shared memory of a node: all that crosses here is small.
STORE_BYTES = 80 * 2**20

os.environ["RAY_raylet_start_wait_time_s"] = str(_START_S)  # noqa: SIM112  (Ray spells it so)
os.environ["RAY_AUTH_MODE"] = "disabled"  # else a token would be written into the home folder
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

from ray.cluster_utils import Cluster  # noqa: E402  (it reads its settings when it is imported)


class Nodes:
    """A head on which servers run, and nodes with one processor each for workers.

    Args:
        address: where others reach the head; None: as Ray finds it.
    """

    def __init__(self, address: str | None = None) -> None:
        head: dict[str, Any] = {"num_cpus": 0, "object_store_memory": STORE_BYTES, "include_dashboard": False}
        if address is not None:
            head["node_ip_address"] = address
        self.cluster = Cluster(initialize_head=True, head_node_args=head)

    @property
    def address(self) -> str:
        """Of the head."""
        return str(self.cluster.address)

    def add(self, **resources: Any) -> Any:
        """One more node; it may have more than a processor, as `ray.init` names that."""
        return self.cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES, **resources)

    def remove(self, node: Any) -> None:
        """End a node, and wait until the cluster has noticed."""
        alive = self.alive()
        self.cluster.remove_node(node)
        wait_for(lambda: self.alive() < alive, "a node that has ended is still counted")

    def alive(self) -> int:
        """How many nodes Ray believes to be there, the head among them."""
        return sum(node["Alive"] for node in self.cluster.global_state.node_table())

    def kill(self, node: Any) -> None:
        """Every process of a node, at once and without notice."""
        self.cluster.remove_node(node, allow_graceful=False)


def wait_for(condition: Callable[[], bool], what: str, limit_s: float = 60.0) -> None:
    """Until something is so; what that is, the failure says."""
    until_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < until_s, f"not within {limit_s:g} s: {what}"
        time.sleep(0.1)


def says(log: Path, text: str, times: int = 1) -> Callable[[], bool]:
    """Whether a log has had a text so often."""
    return lambda: log.read_text().count(text) >= times
