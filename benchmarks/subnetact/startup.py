"""How long a worker process takes from its start to its first batch."""

import asyncio
import statistics
from pathlib import Path
from typing import Any, Final

from subnetact.families import Case, folder_of
from subnetact.memory import six_points
from subnetact.progress import Progress
from superserve.clock import NS_PER_MS
from worker_pool import start

_STARTS: Final = 3


def measure(one: Case, scratch: Path, *, quick: bool, progress: Progress) -> dict[str, Any]:
    """Milliseconds by part: interpreter and imports, torch and the model, the warm-up that runs every subnet once."""
    progress.step(f"start-up, {one.name}")
    folder = six_points(folder_of(one, scratch), scratch)
    splits = [asyncio.run(_one(folder)) for _ in range(1 if quick else _STARTS)]
    return {key: round(statistics.median(split[key] for split in splits), 1) for key in splits[0]}


async def _one(folder: Any) -> dict[str, float]:  # noqa: ANN401 (a model folder)
    pool, _, took_ns = await start(folder, "cpu", {})
    load_ns, warm_ns = pool.engines[0].load_ns, pool.engines[0].warm_ns
    await pool.stop()
    return {
        "interpreter_ms": (took_ns - load_ns - warm_ns) / NS_PER_MS,
        "torch_and_model_ms": load_ns / NS_PER_MS,
        "warm_up_ms": warm_ns / NS_PER_MS,
    }
