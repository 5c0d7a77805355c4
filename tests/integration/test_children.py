"""Child processes of experiments, with real processes."""

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from superserve.experiments.children import ChildFailedError, ChildProcess

pytestmark = pytest.mark.integration

MODULE = "child_under_test"


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ChildProcess]:
    """Makes a child that runs the given code."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def make(code: str, *, read_output: bool = False) -> ChildProcess:
        (tmp_path / f"{MODULE}.py").write_text("import os, signal, subprocess, sys, time\n" + code)
        return ChildProcess(MODULE, [], log=tmp_path / "log", read_output=read_output)

    return make


async def first_line(process: ChildProcess) -> str:
    async for line in process.lines():
        return line.decode().strip()
    raise AssertionError("no output")


async def test_output_is_read_line_by_line_and_the_end_is_checked(child: Callable[..., ChildProcess]) -> None:
    async with child("print('a'); print('b')", read_output=True) as process:
        assert [line async for line in process.lines()] == [b"a\n", b"b\n"]
        await process.check()
    assert process.ended


async def test_failure_carries_status_and_the_end_of_the_log(child: Callable[..., ChildProcess]) -> None:
    async with child("print('said', flush=True); sys.exit('it broke')") as process:
        with pytest.raises(ChildFailedError, match=r"status 1(.|\n)*said(.|\n)*it broke"):
            await process.check()


async def test_leaving_the_block_ends_the_child_by_request(child: Callable[..., ChildProcess]) -> None:
    code = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); print('up', flush=True); time.sleep(60)"
    async with child(code, read_output=True) as process:
        assert await first_line(process) == "up"
    assert await process.wait() == 7


async def test_a_child_that_will_not_end_is_killed_with_what_it_started(child: Callable[..., ChildProcess]) -> None:
    code = (
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "grandchild = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(grandchild.pid, flush=True); time.sleep(60)"
    )
    process = child(code, read_output=True)
    process.start()
    grandchild = int(await first_line(process))
    await process.stop(grace_s=0.2)
    assert await process.wait() == -signal.SIGKILL
    await asyncio.sleep(0.1)
    assert not psutil.pid_exists(grandchild) or psutil.Process(grandchild).status() == psutil.STATUS_ZOMBIE
    await process.stop()


async def test_what_a_child_left_behind_is_ended_with_the_block(child: Callable[..., ChildProcess]) -> None:
    code = (
        "sleeper = [sys.executable, '-c', 'import time; time.sleep(60)']\n"
        "print(subprocess.Popen(sleeper).pid, flush=True)"
    )
    async with child(code, read_output=True) as process:
        orphan = int(await first_line(process))
        await asyncio.sleep(0.3)  # not `wait`, which reaps: the block's end is what is tried here
        assert process.ended
    await asyncio.sleep(0.1)
    assert not psutil.pid_exists(orphan) or psutil.Process(orphan).status() == psutil.STATUS_ZOMBIE


async def test_cancellation_ends_the_child(child: Callable[..., ChildProcess]) -> None:
    process = child("print('up', flush=True); time.sleep(60)", read_output=True)
    up = asyncio.Event()

    async def work() -> None:
        async with process:
            await first_line(process)
            up.set()
            await process.wait()

    task = asyncio.create_task(work())
    await up.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not psutil.pid_exists(process.pid)


async def test_ctrl_c_of_the_terminal_does_not_reach_the_child(child: Callable[..., ChildProcess]) -> None:
    async with child("time.sleep(60)") as process:
        assert os.getpgid(process.pid) == process.pid != os.getpgid(0)
        assert os.getsid(process.pid) == process.pid
