"""Everything that the page is made of, as it is kept."""

from pathlib import Path
from typing import Final, Self

import msgspec

from scaling.front_end import FrontEnd
from scaling.one_scheduler import Cost
from scaling.shards import Outcomes
from superserve.model_folder import write_json

_FILE: Final = "scaling.json"


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What times were measured on."""

    cpu: str
    cores: int
    python: str


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """Parts that have not been run are None or empty."""

    machine: Machine | None = None
    front_end: FrontEnd | None = None
    scheduler: tuple[Cost, ...] = ()
    shards: tuple[Outcomes, ...] = ()

    @classmethod
    def read(cls, folder: Path) -> Self:
        """What a folder holds of earlier runs."""
        path = folder / _FILE
        return msgspec.json.decode(path.read_bytes(), type=cls) if path.exists() else cls()

    def write(self, folder: Path) -> None:
        """Keep it."""
        write_json(folder / _FILE, self)
