"""Packed subnets in the user's cache: where they lie, and which of them may be used.

The rules are those of compiled code (``builds.py``): this user's cache only, files that nobody else may write, for this
machine, torch and version. Nothing here imports torch: the router asks, too.
"""

import hashlib
import logging
import statistics
from bisect import bisect_left
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from superserve.engine import PACKED
from superserve.errors import ModelFolderError
from superserve.model_folder import ModelFolder, cache_folder, write_json
from superserve.supernet.builds import check_ours, sha256, this_machine
from superserve.supernet.packed.program import FORMAT, PROGRAM_FILE, WEIGHTS_FILE, read_program
from superserve.supernet.right_answers import Runs, refuse_losses

logger = logging.getLogger(__name__)

RECORD_FILE: Final = "pack.json"

#: What is gained by less than this is within what two measurements of the same differ by.
_WORTH: Final = 0.05

_FIX: Final = "pack it again with `superserve pack --force`"


class PackRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is known of a packed subnet: the content of ``pack.json``, which lies beside its program and weights."""

    subnet: str
    """Its id."""
    nbytes: int
    """What it takes on the machine while it is mapped, beside the one copy of the weights."""
    seconds: float
    """What packing took."""
    behind: str
    """The engine that it was timed beside: what runs it where it is not packed."""
    batches: tuple[int, ...]
    """Batch sizes at which it was timed."""
    ratios: tuple[float, ...]
    """For each of them: what it takes over what the engine behind takes, medians of runs in turns."""
    sha256: dict[str, str]
    """Of its program and weights."""

    @property
    def is_faster(self) -> bool:
        """Whether it is worth its memory: batches that run where they are faster take so much less, over all sizes."""
        return statistics.mean(min(1.0, ratio) for ratio in self.ratios) <= 1 - _WORTH

    def ratio(self, rows: int) -> float:
        """What a batch takes on it over what it takes behind it, by the next size at which that was timed."""
        return self.ratios[min(bisect_left(self.batches, rows), len(self.ratios) - 1)]


class KeptPack(NamedTuple):
    """A packed subnet that may be used, and where it lies."""

    path: Path
    record: PackRecord


def packs_path(folder: ModelFolder, dtype: str) -> Path:
    """Where the packed subnets of a model are kept, for this machine and torch, bundled or not."""
    digest = hashlib.sha256(msgspec.json.encode((FORMAT, this_machine(dtype)))).hexdigest()
    return cache_folder() / "packed" / f"{folder.config.name}-{folder.model_hash[:16]}" / f"{dtype}-{digest[:16]}"


def pack_path(folder: ModelFolder, dtype: str, subnet: int) -> Path:
    """Where one is kept."""
    return packs_path(folder, dtype) / str(subnet)


def find_pack(folder: ModelFolder, dtype: str, subnet: int, behind: str) -> KeptPack | None:
    """A kept packed subnet, every byte checked; None if there is none, or it was timed beside another engine.

    It must not be known to lose accuracy either: `superserve evaluate` may have found out. What lies there and may not
    be used is told in a warning.
    """
    path = pack_path(folder, dtype, subnet)
    if not path.exists():
        return None
    try:
        record = _load(folder, path, folder.front.subnets[subnet].id)
        refuse_losses(folder, Runs(PACKED, dtype), [record.subnet])
    except ModelFolderError as error:
        logger.warning("ignoring a packed subnet: %s", error)
        return None
    return KeptPack(path, record) if record.behind == behind else None


def find_packs(folder: ModelFolder, dtype: str, behind: str) -> dict[int, KeptPack]:
    """All that are kept of a model, by front index; see `find_pack`."""
    found = {number: find_pack(folder, dtype, number, behind) for number in range(len(folder.front.subnets))}
    return {number: kept for number, kept in found.items() if kept is not None}


def has_packs(folder: ModelFolder, dtype: str) -> bool:
    """Whether any is kept, unchecked."""
    return any(packs_path(folder, dtype).glob("[0-9]*"))


def write_record(path: Path, record: PackRecord) -> None:
    """Note beside a program and its weights what is known of them."""
    write_json(path / RECORD_FILE, record)
    (path / RECORD_FILE).chmod(0o600)


def read_record(path: Path) -> PackRecord:
    """What is known of a packed subnet.

    Raises:
        ModelFolderError: if others may write the file, or it holds something else.
    """
    file = path / RECORD_FILE
    check_ours(file, _FIX)
    try:
        return msgspec.json.decode(file.read_bytes(), type=PackRecord)
    except (OSError, msgspec.MsgspecError) as error:
        raise ModelFolderError(f"{file}: {error}: {_FIX}") from None


def hashes(path: Path) -> dict[str, str]:
    """Of a packed subnet's program and weights."""
    return {name: sha256(path / name) for name in (PROGRAM_FILE, WEIGHTS_FILE)}


def _load(folder: ModelFolder, path: Path, subnet: str) -> PackRecord:
    program = read_program(path, folder.model_hash)
    for above in (path.parent.parent, path.parent):
        check_ours(above, _FIX)
    record = read_record(path)
    if (program.subnet, record.subnet) != (subnet, subnet) or record.nbytes != program.nbytes:
        raise ModelFolderError(f"{path}: of another subnet: {_FIX}")
    if record.sha256 != hashes(path):
        raise ModelFolderError(f"{path}: not what was packed: {_FIX}")
    return record
