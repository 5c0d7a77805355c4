"""Two worker processes on one copy of the weights: each runs other subnets, and every answer is the oracle's."""

import asyncio
import os
import signal
from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from superserve.clock import MonotonicClock
from superserve.engine import EngineChoice
from superserve.model_folder import ModelFolder
from superserve.serving.cores import available_cores, plan_cores
from superserve.serving.devices import workers_for
from superserve.serving.local_pool import LocalPool
from superserve.serving.pool import Batch, BatchResult
from superserve.supernet.extract import extract
from superserve.supernet.hub import load_supernet, save_supernet
from superserve.supernet.preprocess import parse_preprocessing
from support.compiled import CompiledFolder
from support.supernets import pixels, small_supernet

pytestmark = pytest.mark.integration

BATCHES = 60
IMAGES = pixels(16)


def oracle(folder: ModelFolder) -> list[npt.NDArray[np.float32]]:
    """Logits of `IMAGES` by each extracted subnet, in float32."""
    supernet = load_supernet(folder)
    (x,) = parse_preprocessing(supernet.config.preprocessing).build()([torch.from_numpy(IMAGES)])
    with torch.inference_mode():
        return [
            extract(supernet.network, record.spec, supernet.statistics[record.id])(x).numpy()
            for record in supernet.front.subnets
        ]


class Load:
    """Keeps every worker of a pool busy, with random subnets and batches, and compares what it answers.

    A worker that comes back after its death goes on.
    """

    def __init__(self, folder: ModelFolder, pool: LocalPool, tolerance: float) -> None:
        self.ran: Counter[tuple[int, int]] = Counter()
        self.worst = 0.0
        self.ready: Counter[int] = Counter()
        self.lost: list[str] = []
        self.failed: list[str] = []
        self.over = asyncio.Event()
        self._expected = oracle(folder)
        self._pool = pool
        self._tolerance = tolerance
        self._rng = np.random.default_rng(0)
        self._under_way: dict[int, tuple[int, npt.NDArray[np.int64]]] = {}

    def on_worker_ready(self, worker: int) -> None:
        self.ready[worker] += 1
        self._launch(worker)

    def on_worker_overlaps(self, worker: int, *, overlaps: bool) -> None:
        raise AssertionError(f"worker {worker} overlaps batches: {overlaps}")

    def on_batch_done(self, worker: int, result: BatchResult) -> None:
        subnet, rows = self._under_way.pop(worker)
        found = np.frombuffer(result.outputs[0], "<f4").reshape(len(rows), -1)
        expected = self._expected[subnet]
        self.worst = max(self.worst, float(np.abs(found - expected[rows]).max() / np.abs(expected).max()))
        self.ran[worker, subnet] += 1
        if all(sum(self.ran[number, subnet] for subnet in range(len(self._expected))) >= BATCHES for number in (0, 1)):
            self.over.set()
        self._launch(worker)

    def on_batch_failed(self, worker: int, message: str) -> None:  # noqa: ARG002 (the protocol names it)
        self.failed.append(message)
        self.over.set()

    def on_batch_overdue(self, worker: int) -> None:
        raise AssertionError(f"worker {worker}: no local pool tells of any")

    def on_worker_lost(self, worker: int, reason: str) -> None:
        self._under_way.pop(worker, None)
        self.lost.append(reason)

    def _launch(self, worker: int) -> None:
        if self.over.is_set():
            return
        subnet = int(self._rng.integers(len(self._expected)))
        rows = self._rng.integers(0, len(IMAGES), self._rng.integers(1, 17))
        self._under_way[worker] = subnet, rows
        self._pool.launch(worker, Batch(subnet, len(rows), [[IMAGES[row].tobytes()] for row in rows]))


@pytest.fixture
def small_folder(tmp_path: Path) -> ModelFolder:
    return save_supernet(small_supernet(), tmp_path / "small")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
async def test_eager_workers_share_weights_and_answer_right(small_folder: ModelFolder, dtype: str) -> None:
    await run_two(small_folder, EngineChoice("cpu", "eager", dtype), 1e-4 if dtype == "float32" else 5e-2)


async def test_compiled_workers_share_weights_and_answer_right(compiled_folder: CompiledFolder) -> None:
    await run_two(compiled_folder.folder, EngineChoice("cpu", "compiled", "float32"), 1e-4)


async def run_two(folder: ModelFolder, choice: EngineChoice, tolerance: float) -> None:
    """Load on two workers until each has run many batches; one of them is killed on the way."""
    cores = plan_cores(available_cores(), 2).workers
    pool = LocalPool([workers_for(folder, choice)], cores, MonotonicClock(asyncio.get_running_loop()))
    load = Load(folder, pool, tolerance)
    await pool.start(load)
    try:
        assert (pool.engines[0].engine, pool.engines[0].dtype) == (choice.engine, choice.dtype)
        async with asyncio.timeout(120):
            await load.over.wait()
        assert load.failed == []
        assert load.worst <= tolerance
        subnets = range(len(folder.front.subnets))
        assert all(load.ran[worker, subnet] for worker in (0, 1) for subnet in subnets)
        files = [mapped_weights(pid, folder, choice) for pid in pool.pids]
        assert files[0] == files[1] != set()
        victim = pool.pids[1]
        assert victim is not None
        load.over.clear()
        load.ran.clear()
        os.kill(victim, signal.SIGKILL)
        async with asyncio.timeout(120):
            while load.ready[1] < 2:  # noqa: ASYNC110 (a listener has no event for it)
                await asyncio.sleep(0.05)
        assert mapped_weights(pool.pids[1], folder, choice) == files[0]
    finally:
        load.over.set()
        await pool.stop()


def mapped_weights(pid: int | None, folder: ModelFolder, choice: EngineChoice) -> set[tuple[str, str]]:
    """Device and inode of the weight files that a process has mapped, and that no page of them was copied."""
    found, private = set(), 0
    lines = Path(f"/proc/{pid}/smaps").read_text().splitlines()
    inside = False
    for line in lines:
        words = line.split()
        if "-" in words[0] and not words[0].endswith(":"):
            name = words[-1]
            inside = name.endswith(".safetensors") and ("model" in Path(name).name or choice.dtype in Path(name).name)
            if inside:
                found.add((words[3], words[4]))
        elif inside and words[0] == "Private_Dirty:":
            private += int(words[1])
    assert private == 0, f"{private} kB of the mapped weights were copied"
    return found
