"""What a search has measured, one JSON line per subnet: a search that was stopped goes on from it."""

from pathlib import Path
from typing import IO

import msgspec

from superserve.errors import ConfigError
from superserve.subnet import SubnetSpec
from superserve.training.front import Candidate


class Conditions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was measured, on what: candidates under other conditions cannot be compared."""

    weights_sha256: str
    calibration_images: int
    validation_images: int
    seed: int
    """Of the split into training and validation images."""
    rows: int
    """Batch size of the latency."""
    machine: str
    torch: str


class Journal:
    """Candidates by subnet, kept in a file.

    Args:
        path: the file; made if need be.
        conditions: what everything in it was measured under.

    Raises:
        ConfigError: if the file holds measurements under other conditions, or is none of ours.
    """

    def __init__(self, path: Path, conditions: Conditions) -> None:
        self.path = path
        self._found: dict[SubnetSpec, Candidate] = {}
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        if lines and not lines[-1].endswith(b"\n"):  # killed while writing
            lines.pop()
            path.write_bytes(b"".join(lines))
        if lines:
            self._read(lines, conditions)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(msgspec.json.encode(conditions) + b"\n")

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """In the order in which they were measured."""
        return tuple(self._found.values())

    def __contains__(self, spec: SubnetSpec) -> bool:
        return spec in self._found

    def __getitem__(self, spec: SubnetSpec) -> Candidate:
        return self._found[spec]

    def add(self, candidate: Candidate) -> None:
        """Keep a measurement."""
        with self.path.open("ab") as file:
            _write(file, candidate)
        self._found[candidate.spec] = candidate

    def _read(self, lines: list[bytes], conditions: Conditions) -> None:
        try:
            found = msgspec.json.decode(lines[0], type=Conditions)
            candidates = [msgspec.json.decode(line, type=Candidate) for line in lines[1:]]
        except msgspec.MsgspecError as error:
            raise ConfigError(f"{self.path}: not the journal of a search ({error}): choose another --out") from None
        if found != conditions:
            raise ConfigError(
                f"{self.path}: measured under other conditions ({found}) than now ({conditions}): delete it, or choose "
                "another --out"
            )
        self._found = {candidate.spec: candidate for candidate in candidates}


def _write(file: IO[bytes], candidate: Candidate) -> None:
    file.write(msgspec.json.encode(candidate) + b"\n")
