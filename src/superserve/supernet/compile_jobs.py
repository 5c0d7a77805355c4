"""Runs the processes that compile, a few at a time, and leaves none behind."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Final, Self, TypeVar

import msgspec

from superserve.errors import ModelFolderError
from superserve.supernet.compile_task import Task

#: How much of a failed compiler's output is told.
_LAST_CHARACTERS: Final = 1_500

#: Generated code then checks shapes, so that one that was specialised by mistake is refused, not run.
_CHECKING: Final = {"AOTI_RUNTIME_CHECK_INPUTS": "1"}

T = TypeVar("T")


class Jobs:
    """Processes of ``compile_process.py``. Use it as ``with``: whatever ends the block ends them.

    Args:
        environment: added to this process's.
        most: how many at a time; default: one per core.
    """

    def __init__(self, environment: Mapping[str, str], most: int | None = None) -> None:
        self._environment = {**os.environ, **environment}
        self._most = most or len(os.sched_getaffinity(0))
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self._ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._kill()

    def run_all(self, tasks: Sequence[Task], kind: type[T], done: Callable[[int], None]) -> list[T]:
        """Run one process per task; the first alone, since it fills the compiler's cache. Stops at the first failure.

        Args:
            tasks: what to do, at least one.
            kind: type of the results.
            done: told how many have ended.

        Raises:
            ModelFolderError: if a process fails.
        """
        results = {0: self.run(tasks[0], kind)}
        done(1)
        with ThreadPoolExecutor(self._most) as threads:
            running = {threads.submit(self.run, task, kind): number for number, task in enumerate(tasks) if number}
            try:
                for future in as_completed(running):
                    results[running[future]] = future.result()
                    done(len(results))
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                self._kill()
                raise
        return [results[number] for number in range(len(tasks))]

    def run(self, task: Task, kind: type[T]) -> T:
        """Run the process of one task and return its result.

        Raises:
            ModelFolderError: if it fails.
        """
        process = self._start(task)
        output, errors = process.communicate()
        with self._lock:
            self._running.discard(process)
        if process.returncode:
            what = "its compiled code is refused" if task.subnet is None else f"subnet {task.subnet} cannot be compiled"
            raise ModelFolderError(
                f"{task.folder}: {what} (status {process.returncode}); serve with --engine eager. "
                f"{errors.strip()[-_LAST_CHARACTERS:]}"
            )
        return msgspec.json.decode(output.splitlines()[-1], type=kind)

    def _start(self, task: Task) -> "subprocess.Popen[str]":
        command = [
            sys.executable, "-P", "-m", "superserve.supernet.compile_process", msgspec.json.encode(task).decode(),
        ]  # fmt: skip
        checking = _CHECKING if task.subnet is not None else {}
        with self._lock:
            if self._ended:
                raise ModelFolderError(f"{task.folder}: compiling was stopped")
            process = subprocess.Popen(  # noqa: S603 (this package's own module)
                command,
                env={**self._environment, **checking},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            self._running.add(process)
        return process

    def _kill(self) -> None:
        with self._lock:
            self._ended = True
            for process in self._running:
                process.kill()
