"""What came of an experiment: claims, a table, figures, and why they differ from the paper's."""

from enum import StrEnum
from typing import Final

import msgspec

#: Experiments of the paper, and our own: live runs beside the simulator's predictions.
NAMES: Final = ("E1", "E2", "E3", "E4", "E5", "E6", "E7", "E8", "E9", "E10", "E11", "live")


class Verdict(StrEnum):
    """Whether a claim of the paper holds in our runs."""

    REPRODUCED = "yes"
    NOT_REPRODUCED = "**no**"
    PARTLY = "in part"
    NOT_TESTED = "not tested here"

    @classmethod
    def of(cls, holds: bool) -> "Verdict":  # noqa: FBT001  (the one thing it says)
        """Of a comparison."""
        return cls.REPRODUCED if holds else cls.NOT_REPRODUCED


class Claim(msgspec.Struct, frozen=True):
    """A statement of the paper, our figure for it, and whether they agree."""

    paper: str
    ours: str
    verdict: Verdict


class Check(msgspec.Struct, frozen=True):
    """A threshold that this project holds itself to, and whether it is kept."""

    threshold: str
    found: str
    holds: bool


class Table(msgspec.Struct, frozen=True):
    """Figures behind the claims."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One experiment of the paper.

    ``setting``: parameters and seeds, in a sentence. ``checks``: thresholds of our own. ``table_open``: the table is
    shown at once, not on demand. ``figures``: file names beside the page's. ``differences``: where and why our figures
    are not the paper's.
    """

    name: str
    title: str
    setting: str
    claims: tuple[Claim, ...]
    checks: tuple[Check, ...] = ()
    table: Table | None = None
    table_open: bool = False
    figures: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()
