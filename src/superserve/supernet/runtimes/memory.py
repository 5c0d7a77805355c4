"""What a subnet in a static runtime takes of a process: measured in one that does nothing else.

``python -m superserve.supernet.runtimes.memory TASK`` opens it, runs batches of all sizes, and prints the growth. In
the process that packs it the figure would be lost in what that has allocated and freed before.
"""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from superserve.errors import ModelFolderError, SuperServeError
from superserve.processes import end_with_parent
from superserve.supernet.runtimes.sessions import FILES, Arrays, import_runtime, open_session

_MODULE: Final = "superserve.supernet.runtimes.memory"
_ROLLUP: Final = Path("/proc/self/smaps_rollup")


class _Task(msgspec.Struct, frozen=True, kw_only=True):
    """As JSON on the command line."""

    runtime: str
    dtype: str
    path: str
    """The folder of the subnet."""
    inputs: str
    """A file of input arrays by their places, with rows for the largest batch."""
    batches: tuple[int, ...]


def resident_bytes(runtime: str, dtype: str, path: Path, inputs: Arrays, batches: Sequence[int]) -> int:
    """What each process takes that holds the subnet in a folder, beside the runtime's library; at least its weights.

    Args:
        runtime: one of `FILES`.
        dtype: what it computes in.
        path: the folder.
        inputs: arrays for the largest batch.
        batches: sizes that it will run.

    Raises:
        ModelFolderError: if it cannot be opened or run.
    """
    with tempfile.NamedTemporaryFile(suffix=".npz") as file:
        np.savez(file, *inputs)
        file.flush()
        task = _Task(runtime=runtime, dtype=dtype, path=str(path), inputs=file.name, batches=tuple(batches))
        argument = msgspec.json.encode(task).decode()
        done = subprocess.run(  # noqa: S603  (our own module, in our own environment)
            [sys.executable, "-W", "ignore", "-P", "-m", _MODULE, argument],
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
    if done.returncode:
        raise ModelFolderError(done.stderr.strip() or f"{runtime} ended its process with status {done.returncode}")
    return max(int(done.stdout.split()[-1]), sum((path / name).stat().st_size for name in FILES[runtime]))


def main() -> None:
    """Do a task, and print the bytes in the last line."""
    end_with_parent()
    task = msgspec.json.decode(sys.argv[1], type=_Task)
    with np.load(task.inputs) as file:
        inputs: list[np.ndarray[Any, Any]] = [file[name] for name in file.files]
    try:
        import_runtime(task.runtime)  # which a process holds once, however many subnets are
        before = _private_bytes()
        session = open_session(task.runtime, task.dtype, Path(task.path))
        for rows in task.batches:
            session([array[:rows] for array in inputs])
    except (SuperServeError, RuntimeError, ValueError) as error:
        sys.exit(str(error))
    sys.stdout.write(f"{_private_bytes() - before}\n")


def _private_bytes() -> int:
    """Memory that no file backs: what cannot be shared nor dropped."""
    (line,) = (line for line in _ROLLUP.read_text().splitlines() if line.startswith("Anonymous:"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
