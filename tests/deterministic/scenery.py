"""What stands before a life begins: models on disk, and how the server is configured."""

from pathlib import Path
from typing import Final, NamedTuple

from deterministic.model import BATCHES, LATENCIES_MS, NAMES, write_model
from deterministic.plan import Plan
from superserve.clock import NS_PER_MS, NS_PER_S
from superserve.engine import EngineChoice
from superserve.frontend.deployment import Deployment
from superserve.model_folder import ModelFolder, write_json
from superserve.profile import LatencyTable
from superserve.serving.config import (
    Config,
    GrpcConfig,
    HttpConfig,
    LedgerConfig,
    ModelSettings,
    RepositoryConfig,
    ServerConfig,
    WorkerSettings,
)
from superserve.serving.supervisor import PoolLimits
from superserve.serving.watchdog import AnswerLimits
from support.profiles import make_profile

#: Short, so that a life is: what lasts as long as it does is not seen.
LIMITS: Final = PoolLimits(
    start_ns=NS_PER_S,
    answer=AnswerLimits(unplanned_ns=NS_PER_S, least_ns=400 * NS_PER_MS, factor=12),
    stop_ns=200 * NS_PER_MS,
)

HTTP: Final = HttpConfig(
    max_connections=60,
    max_body_bytes=16_384,
    max_pipelined=8,
    read_timeout_s=0.5,
    write_timeout_s=0.3,
    idle_timeout_s=2.0,
)
_SERVER: Final = ServerConfig(http_port=0, metrics_port=0, max_body_memory_bytes=16_384, drain_timeout_s=1.0)


class Scenery(NamedTuple):
    """What stands on disk; the same for all lives."""

    deployments: list[Deployment]
    profile: Path
    """Of the device that loaded models run on."""
    repository: Path
    tables: dict[str, LatencyTable]

    @classmethod
    def make(cls, root: Path) -> "Scenery":
        """Write it to an empty folder."""
        deployments, tables = [], {}
        for number, name in enumerate(NAMES):
            latencies = [[value / (1 + number) for value in row] for row in LATENCIES_MS]
            profile, file = make_profile(latencies, BATCHES, overhead_us=500.0), root / f"{name}.json"
            write_json(file, profile)
            where = root / "repository" if name == NAMES[-1] else root
            folder = ModelFolder(write_model(where / name, name))
            deployments.append(Deployment(folder, EngineChoice(f"emulated:{file}", "emulated", "none"), profile))
            tables[str(file.resolve())] = LatencyTable(profile)
        return cls(deployments[:-1], root / f"{NAMES[-1]}.json", root / "repository", tables)


def configure(plan: Plan, scenery: Scenery) -> Config:
    """What the server is told."""
    return Config(
        server=_SERVER,
        http=HTTP,
        grpc=GrpcConfig(enabled=False),
        model=ModelSettings(policy=plan.policy, timeout_action=plan.timeout_action, max_queued=plan.max_queued),
        workers=WorkerSettings(device=f"emulated:{scenery.profile}"),
        repository=RepositoryConfig(folder=str(scenery.repository)),
        ledger=LedgerConfig(share=plan.ledger),
    )
