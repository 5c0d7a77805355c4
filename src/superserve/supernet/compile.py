"""Compile the subnets of a model ahead of time: ``superserve compile``.

Each subnet is traced with a dynamic batch size (`torch.export`) and compiled by AOTInductor with its constants left
outside of the library, so that all libraries read one copy of the weights. Compilers take memory and may crash: each
subnet is built and checked in a process of its own (``compile_process.py``). Nothing here imports torch.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from superserve.engine import INT8
from superserve.errors import ConfigError, ModelFolderError
from superserve.file_lock import alone
from superserve.model_folder import BYTES, ModelFolder, write_json
from superserve.processor import has_bfloat16, has_int8
from superserve.supernet.builds import (
    FORMAT,
    MANIFEST_FILE,
    Build,
    BuiltSubnet,
    build_path,
    file_names,
    find_build,
    load_build,
    sha256,
    this_machine,
)
from superserve.supernet.compile_jobs import Jobs
from superserve.supernet.compile_task import Checked, Task

#: Told of progress: subnets done, subnets in all, what is being done.
Report = Callable[[int, int, str], None]

#: What code can be compiled for.
_DTYPES: Final = ("float32", "bfloat16")

_LOCK_FILE: Final = ".lock"
#: How the names of folders begin in which code is being compiled.
_UNFINISHED: Final = ".building-"

#: Compilers that torch can use, in the order in which they are looked for.
_COMPILERS: Final = ("g++", "clang++")


class Compiled(NamedTuple):
    """A build and where it lies."""

    path: Path
    build: Build
    fresh: bool
    """Whether it was compiled now, not found."""


def compile_model(
    folder: ModelFolder,
    *,
    dtype: str = "float32",
    jobs: int | None = None,
    force: bool = False,
    report: Report | None = None,
) -> Compiled:
    """Compile every subnet of a model for this machine, check each against eager float32, and keep them in the cache.

    Nothing is kept unless all subnets compile and pass. A second call for the same model waits for the first.
    ``docs/performance.md`` says how long it takes.

    Args:
        folder: the model.
        dtype: what to compute in: ``float32`` or ``bfloat16``.
        jobs: processes at a time, each of about 1 GB; default: one per core.
        force: compile even if a valid build is kept.
        report: told of progress, in the calling thread.

    Raises:
        ConfigError: for a model that takes texts, a dtype that is unknown or that this processor lacks, or without a
            C++ compiler.
        ModelFolderError: if the folder cannot be loaded, or a subnet cannot be compiled or fails the check.
    """
    if any(tensor.datatype == BYTES for tensor in folder.config.inputs):
        raise ConfigError(
            f"model {folder.config.name!r} takes texts, and cutting them into pieces cannot be compiled: serve it with "
            "--engine eager"
        )
    if dtype not in _DTYPES:
        raise ConfigError(f"dtype {dtype!r} is not one of {', '.join(_DTYPES)}")
    check_processor(dtype)
    told = report or (lambda *_: None)
    path = build_path(folder, this_machine(dtype))
    try:
        _make_private(path.parent)
        with alone(path.parent / _LOCK_FILE):
            kept = None if force else find_build(folder, dtype)
            if kept is not None:
                return Compiled(kept.path, kept.build, fresh=False)
            compiler = find_compiler()
            _remove_unfinished(path.parent)
            with tempfile.TemporaryDirectory(prefix=_UNFINISHED, dir=path.parent) as scratch:
                stage = Path(scratch) / "build"
                _build(folder, dtype, stage, Jobs(_environment(compiler, Path(scratch)), jobs), told)
                _replace(stage, path)
    except OSError as error:
        raise ModelFolderError(f"{path}: compiled code cannot be kept there: {error}") from None
    return Compiled(path, load_build(folder, path), fresh=True)


def check_processor(dtype: str) -> None:
    """Refuse a dtype that this processor would only emulate.

    Raises:
        ConfigError: naming the one that it has.
    """
    if dtype == "bfloat16" and not has_bfloat16():
        raise ConfigError(
            "dtype 'bfloat16': this processor does not multiply it (it has none of avx512_bf16, amx_bf16, bf16), so "
            "that it would be slower: use float32"
        )
    if dtype == INT8 and not has_int8():
        raise ConfigError(
            "dtype 'int8': this processor has no instructions for it (none of avx512_vnni, avx_vnni, asimddp, i8mm): "
            "it would be slower: use float32"
        )


def find_compiler() -> str:
    """The C++ compiler that torch is to use.

    Raises:
        ConfigError: if there is none.
    """
    wanted = os.environ.get("CXX") or next(filter(shutil.which, _COMPILERS), None)
    if wanted is None or shutil.which(wanted) is None:
        raise ConfigError(
            f"compiling needs a C++ compiler, and {wanted or ' and '.join(_COMPILERS)} cannot be found: install one "
            "(Debian, Ubuntu: apt install g++) or name one in CXX; serving without compiled code needs none"
        )
    return wanted


def _environment(compiler: str, scratch: Path) -> dict[str, str]:
    """The environment of compiling processes."""
    return {
        "CXX": compiler,
        # As in workers: the number of threads is compiled in.
        "OMP_NUM_THREADS": "1",
        # The compiler's own cache: shared by the processes of this build for its precompiled headers, and then gone.
        "TORCHINDUCTOR_CACHE_DIR": str(scratch / "inductor"),
    }


def _build(folder: ModelFolder, dtype: str, stage: Path, jobs: Jobs, told: Report) -> None:
    """Fill a folder with a build."""
    stage.mkdir(mode=0o700)
    whole = Task(folder=str(folder.path.resolve()), bundled=folder.bundled, subnet=None, dtype=dtype, out=str(stage))
    ids = [record.id for record in folder.front.subnets]
    total = len(ids) + 1
    told(0, total, "compile")
    with jobs:
        tasks = [msgspec.structs.replace(whole, subnet=number) for number in range(len(ids))]
        seconds = jobs.run_all(tasks, float, lambda done: told(done, total, "compile"))
        subnets = [BuiltSubnet(id=name, seconds=round(taken, 1)) for name, taken in zip(ids, seconds, strict=True)]
        _write_manifest(stage, folder, dtype, subnets)
        told(len(ids), total, "check")
        checked = jobs.run(whole, list[Checked])
    _write_manifest(
        stage,
        folder,
        dtype,
        [
            msgspec.structs.replace(subnet, error=found.error, full_batch_us=found.full_batch_us)
            for subnet, found in zip(subnets, checked, strict=True)
        ],
    )
    told(total, total, "check")


def _write_manifest(stage: Path, folder: ModelFolder, dtype: str, subnets: Sequence[BuiltSubnet]) -> None:
    """Note what was built, and leave nobody else a right to it, whatever the umask."""
    files = [stage / name for number in range(len(subnets)) for name in file_names(number)]
    write_json(
        stage / MANIFEST_FILE,
        Build(
            format=FORMAT,
            model_hash=folder.model_hash,
            target=this_machine(dtype),
            subnets=tuple(subnets),
            sha256={file.name: sha256(file) for file in files},
        ),
    )
    for file in (*files, stage / MANIFEST_FILE):
        file.chmod(0o600)


def _make_private(path: Path) -> None:
    """A folder for code, and the one above it, that only this user may write."""
    path.mkdir(parents=True, exist_ok=True)
    for folder in (path, path.parent):
        folder.chmod(0o700)


def _remove_unfinished(path: Path) -> None:
    """What compilations that were killed left behind; whoever holds the lock is the only one at work."""
    for left in path.glob(f"{_UNFINISHED}*"):
        shutil.rmtree(left, ignore_errors=True)


def _replace(stage: Path, path: Path) -> None:
    """Put a finished build in place; a process that has the old one loaded keeps it."""
    if path.exists():
        path.rename(stage.parent / "old")
    stage.rename(path)
