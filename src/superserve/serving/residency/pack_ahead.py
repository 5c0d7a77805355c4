"""Pack the subnets of a model before it is served: ``superserve pack``."""

import subprocess
from collections.abc import Callable

import msgspec

from superserve.engine import PACKED, EngineChoice
from superserve.errors import ModelFolderError
from superserve.model_folder import ModelFolder
from superserve.serving.residency.pack_task import PackTask
from superserve.serving.residency.packer import command, environment
from superserve.supernet.packed_store import PackRecord, find_pack

#: Told of progress: subnets done, subnets in all, what is being done.
Report = Callable[[int, int, str], None]


def pack_model(
    folder: ModelFolder, choice: EngineChoice, *, force: bool = False, report: Report | None = None
) -> list[PackRecord]:
    """Pack every subnet of a model for this machine, each in a process of its own, and keep them in the cache.

    Args:
        folder: the model.
        choice: the packed engine, by `choose_engine`.
        force: pack even what is kept.
        report: told of progress, in the calling thread.

    Returns:
        What is known of each, in front order.

    Raises:
        ModelFolderError: if one cannot be packed.
    """
    told = report or (lambda *_: None)
    count = len(folder.front.subnets)
    first = msgspec.structs.replace(PackTask.of(folder, choice), background=False, force=force)
    records = []
    for subnet in range(count):
        told(subnet, count, "pack")
        kept = None if force else find_pack(folder, choice.dtype, subnet, choice.fallback)
        records.append(_packed(msgspec.structs.replace(first, subnet=subnet)) if kept is None else kept.record)
    told(count, count, "pack")
    return records


def packed_subnets(folder: ModelFolder, choice: EngineChoice, report: Report | None = None) -> tuple[int, ...]:
    """All subnets, packed now if they were not, where the packed engine is to run them all; of another engine none.

    Raises:
        ModelFolderError: if one cannot be packed.
    """
    return tuple(range(len(pack_model(folder, choice, report=report)))) if choice.engine == PACKED else ()


def _packed(task: PackTask) -> PackRecord:
    done = subprocess.run(  # noqa: S603  (our own module)
        command(task), check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment()
    )
    if done.returncode:
        raise ModelFolderError(
            f"{task.folder}: subnet {task.subnet} cannot be packed (status {done.returncode}): {done.stderr.strip()}; "
            f"serve with --engine {task.engine}"
        )
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=PackRecord)
