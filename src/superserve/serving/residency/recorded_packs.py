"""What is known of the packed subnets of a model, from a file: what ``superserve pack MODEL --json FILE`` writes."""

from collections.abc import Collection, Sequence
from pathlib import Path

import msgspec

from superserve.errors import ConfigError
from superserve.supernet.packed_store import PackRecord


class RecordedPacks(msgspec.Struct, frozen=True):
    """The content of such a file."""

    rows: list[PackRecord]
    refused: dict[str, str] = {}
    """Why others are not packed, by id."""
    weights_bytes: int = 0
    """Of the one copy of the weights; 0 if that is not known."""

    @classmethod
    def load(cls, path: Path) -> "RecordedPacks":
        """Read a file.

        Raises:
            ConfigError: if it is none of these.
        """
        try:
            return msgspec.json.decode(path.read_bytes(), type=cls)
        except (OSError, msgspec.MsgspecError) as error:
            raise ConfigError(
                f"--packs {path}: {error}: give what `superserve pack MODEL --json FILE` writes"
            ) from None

    def in_front(self, ids: Sequence[str], only: Collection[str] = ()) -> dict[int, PackRecord]:
        """By front index; ``only`` those of these ids, if any are given.

        Raises:
            ConfigError: if a subnet is not one of the front's, or is wanted and not packed.
        """
        records = {record.subnet: record for record in self.rows}
        strangers = records.keys() - set(ids)
        if strangers:
            raise ConfigError(f"--packs: subnet {min(strangers)} is not in the profile: they are of different models")
        missing = set(only) - records.keys()
        if missing:
            raise ConfigError(f"--resident {min(missing)}: not in --packs, which has {', '.join(records)}")
        return {ids.index(name): record for name, record in records.items() if not only or name in only}
