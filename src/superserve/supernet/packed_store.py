"""Packed subnets in the user's cache: where they lie, and which of them may be used.

The rules are those of compiled code (``builds.py``): this user's cache only, files that nobody else may write, for this
machine, torch and version. Nothing here imports torch: the router asks, too.
"""

import hashlib
import logging
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from superserve.engine import PACKED
from superserve.errors import ModelFolderError
from superserve.model_folder import ModelFolder, cache_folder, write_json
from superserve.supernet.builds import check_ours, sha256, this_machine
from superserve.supernet.packed.fitting_source import fitting_hash
from superserve.supernet.packed.program import FORMAT, PROGRAM_FILE, WEIGHTS_FILE, read_program
from superserve.supernet.right_answers import Runs, refuse_losses
from superserve.supernet.runtimes.contest import PROGRAM, WORTH, mean_ratio
from superserve.supernet.runtimes.installed import version
from superserve.supernet.runtimes.sessions import FILES

logger = logging.getLogger(__name__)

RECORD_FILE: Final = "pack.json"

#: Files of each way to run a subnet that processes map, so that a machine holds them once.
_MAPPED: Final = {PROGRAM: (WEIGHTS_FILE,), "onnxruntime": (), "openvino": FILES["openvino"][1:]}

_FIX: Final = "pack it again with `superserve pack --force`"


class PackRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is known of a packed subnet: the content of ``pack.json``, which lies beside its program and weights."""

    subnet: str
    """Its id."""
    nbytes: int
    """What it takes on the machine while it is mapped, once for all workers, beside the one copy of the weights."""
    nbytes_each: int = 0
    """What it takes besides in each worker that holds it: static runtimes share nothing."""
    seconds: float
    """What packing took."""
    behind: str
    """The engine that it was timed beside: what runs it where it is not packed."""
    batches: tuple[int, ...]
    """Batch sizes at which it was timed."""
    ratios: tuple[float, ...]
    """For each of them: what it takes over what the engine behind takes, medians of runs in turns."""
    runs: tuple[str, ...] = ()
    """For each of them: what runs it then, `PROGRAM` or a static runtime; empty: `PROGRAM` at all sizes."""
    runtimes: dict[str, str] = {}
    """The static runtimes among these, and the version of each that it was packed with."""
    tried: dict[str, str] = {}
    """Those that were tried, and the version of each."""
    left: dict[str, str] = {}
    """Why those that were tried and are not used are not."""
    sha256: dict[str, str]
    """Of the files of all that runs it, and of its program and weights."""

    def __post_init__(self) -> None:
        """Records come from files."""
        sizes = len(self.batches)
        if not sizes or len(self.ratios) != sizes or len(self.runs) not in {0, sizes}:
            raise ValueError(f"subnet {self.subnet}: batches, ratios and runs are not of one length, above 0")
        if any(now <= before for before, now in pairwise((0, *self.batches))) or min(self.ratios) < 0:
            raise ValueError(f"subnet {self.subnet}: batches must rise from 1 or more, ratios must be at least 0")

    @property
    def modules(self) -> tuple[str, ...]:
        """All that runs it, at one batch size or another."""
        return tuple(dict.fromkeys(self.runs)) or (PROGRAM,)

    @property
    def is_faster(self) -> bool:
        """Whether it is worth its memory: batches that run where they are faster take so much less, over all sizes."""
        return mean_ratio(self.ratios) <= 1 - WORTH

    def fits(self, runtimes: Mapping[str, str]) -> bool:
        """Whether it is what would come of packing it with these versions of static runtimes, and with no others."""
        return runtimes.items() <= self.tried.items() and self.runtimes.items() <= runtimes.items()

    def nbytes_on(self, workers: int) -> int:
        """What it takes on a machine with so many workers, beside the one copy of the weights."""
        return self.nbytes + workers * self.nbytes_each

    def ratio(self, rows: int) -> float:
        """What a batch takes on it over what it takes behind it, by the next size at which that was timed."""
        return self.ratios[self._place(rows)]

    def module(self, rows: int) -> str | None:
        """What runs a batch, by the same; None: the engine behind."""
        place = self._place(rows)
        if self.ratios[place] >= 1:
            return None
        return self.runs[place] if self.runs else PROGRAM

    def _place(self, rows: int) -> int:
        return min(bisect_left(self.batches, rows), len(self.batches) - 1)


class KeptPack(NamedTuple):
    """A packed subnet that may be used, and where it lies."""

    path: Path
    record: PackRecord


def packs_path(folder: ModelFolder, dtype: str) -> Path:
    """Where packed subnets of a model are kept, for this machine, torch and what int8 is fitted to, bundled or not."""
    digest = hashlib.sha256(msgspec.json.encode((FORMAT, this_machine(dtype), fitting_hash(folder, dtype)))).hexdigest()
    return cache_folder() / "packed" / f"{folder.config.name}-{folder.model_hash[:16]}" / f"{dtype}-{digest[:16]}"


def pack_path(folder: ModelFolder, dtype: str, subnet: int) -> Path:
    """Where one is kept."""
    return packs_path(folder, dtype) / str(subnet)


def find_pack(
    folder: ModelFolder, dtype: str, subnet: int, behind: str, runtimes: Mapping[str, str] | None = None
) -> KeptPack | None:
    """A kept packed subnet, every byte checked; None if there is none, or it was timed beside another engine.

    If versions of static runtimes are given it must have been tried on these, and run on none but these. It must not be
    known to lose accuracy either: `superserve evaluate` may have found out. What lies there and may not be used is told
    in a warning.
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
    fits = record.behind == behind and (runtimes is None or record.fits(runtimes))
    return KeptPack(path, record) if fits else None


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


def hashes(path: Path, runtimes: Iterable[str] = ()) -> dict[str, str]:
    """Of a packed subnet's program and weights, and of its files for static runtimes."""
    names = (PROGRAM_FILE, WEIGHTS_FILE, *(name for runtime in runtimes for name in FILES[runtime]))
    return {name: sha256(path / name) for name in names}


def mapped_bytes(path: Path, modules: Iterable[str]) -> int:
    """The size of what processes map of all that runs a packed subnet."""
    return sum((path / name).stat().st_size for module in modules for name in _MAPPED[module])


def check_runtimes(path: Path, record: PackRecord) -> None:
    """See to it that the static runtimes which a packed subnet runs on are here, as they were when it was packed.

    Raises:
        ModelFolderError: naming the one that is not.
    """
    if not {*record.modules} <= {PROGRAM, *record.runtimes} <= _MAPPED.keys():
        raise ModelFolderError(f"{path}: runs on what this version does not know: {_FIX}")
    for name, packed_with in record.runtimes.items():
        here = version(name)
        if here != packed_with:
            found = f"not {here}" if here else "which is not installed"
            raise ModelFolderError(f"{path}: packed with {name} {packed_with}, {found}: {_FIX}")


def _load(folder: ModelFolder, path: Path, subnet: str) -> PackRecord:
    program = read_program(path, folder.model_hash)
    for above in (path.parent.parent, path.parent):
        check_ours(above, _FIX)
    record = read_record(path)
    if (program.subnet, record.subnet) != (subnet, subnet):
        raise ModelFolderError(f"{path}: of another subnet: {_FIX}")
    check_runtimes(path, record)
    for name in (name for runtime in record.runtimes for name in FILES[runtime]):
        check_ours(path / name, _FIX)
    if record.sha256 != hashes(path, record.runtimes) or record.nbytes != mapped_bytes(path, record.modules):
        raise ModelFolderError(f"{path}: not what was packed: {_FIX}")
    return record
