"""What was measured, as it is kept: one file per peer."""

from pathlib import Path
from typing import Final

import msgspec

#: A goodput cell: burstiness of the arrivals, load as a share of the server's own saturation.
CELLS: Final = tuple((cv2, load) for cv2 in (4, 16) for load in (0.5, 0.9, 1.3))


class Saturation(msgspec.Struct, kw_only=True):
    """Requests per second of each round, and the number of connections that was best.

    ``per_cpu_s`` is requests per second of CPU time of all processes of the server: about what a core to itself would
    do, on a machine that has others to run.
    """

    rates: list[float]
    per_cpu_s: list[float]
    connections: int


class Cell(msgspec.Struct, kw_only=True):
    """Goodput of each round at one load; ``late_ms`` is how late the generator sent, p99. Void rounds are left out."""

    cv2: int
    load: float
    goodput: list[float]
    p99_ms: list[float]
    late_ms: list[float]


class NoopFigures(msgspec.Struct, kw_only=True):
    """Job (A). Latencies are those of Poisson arrivals at half of saturation, of each round."""

    saturation: Saturation
    p50_ms: list[float]
    p99_ms: list[float]
    late_ms: list[float]

    @property
    def whole(self) -> bool:
        """Whether a run of each kind was not void."""
        return bool(self.p50_ms)


class CnnFigures(msgspec.Struct, kw_only=True):
    """Job (B)."""

    saturation: Saturation
    cells: list[Cell]

    @property
    def whole(self) -> bool:
        """Whether a run of each kind was not void."""
        return all(cell.goodput for cell in self.cells)


class Pair(msgspec.Struct, kw_only=True):
    """A peer and SuperServe in the same, interleaved rounds. What failed is None, and its reason is in ``errors``."""

    peer: str
    version: str = ""
    quick: bool = False
    errors: list[str] = msgspec.field(default_factory=list)
    noop: NoopFigures | None = None
    noop_ours: NoopFigures | None = None
    cnn: CnnFigures | None = None
    cnn_ours: CnnFigures | None = None


class Elastic(msgspec.Struct, kw_only=True):
    """SuperServe with its default policy at 1.3 times the saturation of its middle subnet, CV^2 = 16."""

    policy: str
    rate: float
    live: list[float]
    simulated: list[float]
    fixed: list[float]


class Compiled(msgspec.Struct, kw_only=True):
    """Job (B) with compiled code beside a peer that runs plain torch, and the subnet in process in both engines."""

    peer: str
    served: Saturation
    theirs: Saturation
    eager_in_process: list[float]
    compiled_in_process: list[float]


class Own(msgspec.Struct, kw_only=True):
    """SuperServe beside what is no peer: the model in process, its simulator, the bare gRPC library, `wrk`.

    What failed is None or empty, and its reason is in ``errors``.
    """

    quick: bool = False
    errors: list[str] = msgspec.field(default_factory=list)
    in_process: list[float] = msgspec.field(default_factory=list)
    served: list[float] = msgspec.field(default_factory=list)
    elastic: Elastic | None = None
    compiled: Compiled | None = None
    wrk: list[float] = msgspec.field(default_factory=list)
    generator: list[float] = msgspec.field(default_factory=list)
    grpc: NoopFigures | None = None
    grpc_bare: NoopFigures | None = None


def read_pair(folder: Path, name: str) -> Pair | None:
    """What was kept of a peer."""
    path = folder / f"{name}.json"
    return msgspec.json.decode(path.read_bytes(), type=Pair) if path.exists() else None


def read_own(folder: Path) -> Own | None:
    """What was kept of SuperServe alone."""
    path = folder / "superserve.json"
    return msgspec.json.decode(path.read_bytes(), type=Own) if path.exists() else None
