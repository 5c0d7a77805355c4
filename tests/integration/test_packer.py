"""The process that packs: whatever becomes of it, only its own work is lost."""

import asyncio
import os
import sys

import msgspec
import pytest

from superserve.clock import NS_PER_S, MonotonicClock
from superserve.errors import WorkerError
from superserve.serving.residency.pack_process import stand_back
from superserve.serving.residency.pack_task import PackTask
from superserve.serving.residency.packer import Packer
from superserve.supernet.packed_store import PackRecord

pytestmark = pytest.mark.integration

TASK = PackTask(folder="none", bundled=False, engine="eager", dtype="float32", subnet=0)
RECORD = PackRecord(subnet="s", nbytes=1, seconds=0.5, behind="eager", batches=(1,), ratios=(0.5,), sha256={})


def playing(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have another program do the packing."""

    def command(_: PackTask) -> list[str]:
        return [sys.executable, "-c", code]

    monkeypatch.setattr("superserve.serving.residency.packer.command", command)


async def packed(limit_ns: int = 60 * NS_PER_S) -> PackRecord:
    return await Packer(MonotonicClock(asyncio.get_running_loop()), limit_ns).pack(TASK)


async def test_its_last_line_is_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    playing(f"print('noise'); print({msgspec.json.encode(RECORD).decode()!r})", monkeypatch)
    assert await packed() == RECORD


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import sys; sys.exit('No space left on device')", "status 1: No space left"),
        ("import os; os.kill(os.getpid(), 9)", "killed by signal 9: it said nothing"),
        ("print('{}')", "answered nonsense"),
        ("pass", "answered nonsense"),
    ],
)
async def test_what_does_not_pack_says_why(monkeypatch: pytest.MonkeyPatch, code: str, words: str) -> None:
    playing(code, monkeypatch)
    with pytest.raises(WorkerError, match=words):
        await packed()


async def test_one_that_hangs_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    playing("import time; time.sleep(60)", monkeypatch)
    with pytest.raises(WorkerError, match="signal 9"):
        await packed(limit_ns=NS_PER_S // 10)


async def test_one_that_nobody_waits_for_any_more_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    playing("import time; time.sleep(60)", monkeypatch)
    packer = Packer(MonotonicClock(asyncio.get_running_loop()))
    work = asyncio.ensure_future(packer.pack(TASK))
    await asyncio.sleep(0)  # it has begun
    pid = packer.pid
    assert pid is not None
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_it_stands_back() -> None:
    """In a process of its own, since nobody gets a priority back."""
    cores = tuple(sorted(os.sched_getaffinity(0)))
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        stand_back(cores[:1])
        told = (os.sched_getscheduler(0) == os.SCHED_IDLE, os.nice(0) == 19, os.sched_getaffinity(0) == {cores[0]})
        os.write(writer, str(told).encode())
        os._exit(0)
    assert os.read(reader, 100) == b"(True, True, True)"
    os.waitpid(pid, 0)
    os.close(reader)
    os.close(writer)
