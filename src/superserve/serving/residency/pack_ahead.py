"""Pack the subnets of a model before it is served: ``superserve pack``."""

import logging
import subprocess
from collections.abc import Callable, Sequence

import msgspec

from superserve.engine import PACKED, EngineChoice
from superserve.errors import ModelFolderError
from superserve.model_folder import ModelFolder
from superserve.serving.residency.pack_task import PackTask
from superserve.serving.residency.packer import command, environment
from superserve.supernet.packed_store import PackRecord, find_pack
from superserve.supernet.runtimes.installed import chosen

logger = logging.getLogger(__name__)

#: Told of progress: subnets done, subnets in all, what is being done.
Report = Callable[[int, int, str], None]


class PackedAhead(msgspec.Struct, frozen=True):
    """What came of packing the subnets of a model."""

    records: dict[int, PackRecord]
    """Of those that are packed, by front index."""
    refused: dict[str, str]
    """Why others are not, by id: they run on the engine behind."""


def pack_model(
    folder: ModelFolder,
    choice: EngineChoice,
    *,
    runtimes: Sequence[str] | None = None,
    force: bool = False,
    report: Report | None = None,
) -> PackedAhead:
    """Pack every subnet of a model for this machine, each in a process of its own, and keep them in the cache.

    Args:
        folder: the model.
        choice: the packed engine, by `choose_engine`.
        runtimes: static runtimes to try each on; by default what is kept will do, else all that are installed.
        force: pack even what is kept.
        report: told of progress, in the calling thread.

    Raises:
        ConfigError: if a runtime is not here, or not for the dtype.
        ModelFolderError: if none can be packed.
    """
    wanted = None if runtimes is None else chosen(runtimes, choice.dtype)
    told = report or (lambda *_: None)
    count = len(folder.front.subnets)
    first = msgspec.structs.replace(
        PackTask.of(folder, choice),
        background=False,
        runtimes=None if wanted is None else tuple(wanted),
        force=force,
    )
    records: dict[int, PackRecord] = {}
    refused: dict[str, str] = {}
    for subnet, subnet_record in enumerate(folder.front.subnets):
        told(subnet, count, "pack")
        kept = None if force else find_pack(folder, choice.dtype, subnet, choice.fallback, wanted)
        try:
            records[subnet] = _packed(msgspec.structs.replace(first, subnet=subnet)) if kept is None else kept.record
        except ModelFolderError as error:
            refused[subnet_record.id] = str(error)
    told(count, count, "pack")
    if not records:
        reasons = "; ".join(dict.fromkeys(refused.values()))
        raise ModelFolderError(
            f"{folder.path}: no subnet can be packed: {reasons}: serve with --engine {choice.fallback}"
        )
    return PackedAhead(records, refused)


def packed_subnets(folder: ModelFolder, choice: EngineChoice, report: Report | None = None) -> tuple[int, ...]:
    """Those that the packed engine can run packed, packed now if they were not; of another engine none.

    Raises:
        ModelFolderError: if none can be packed.
    """
    if choice.engine != PACKED:
        return ()
    ahead = pack_model(folder, choice, report=report)
    for name, reason in ahead.refused.items():
        logger.warning("subnet %s is not packed and runs on %s: %s", name, choice.fallback, reason)
    return tuple(ahead.records)


def _packed(task: PackTask) -> PackRecord:
    done = subprocess.run(  # noqa: S603  (our own module)
        command(task), check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment()
    )
    if done.returncode:
        raise ModelFolderError(done.stderr.strip() or f"the process that packs it ended with status {done.returncode}")
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=PackRecord)
