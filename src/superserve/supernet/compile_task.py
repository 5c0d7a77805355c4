"""What a compiling process is told, and what it answers."""

from typing import NamedTuple

import msgspec


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What one process is to do, as JSON on its command line: compile a subnet, or check the whole build (None)."""

    folder: str
    bundled: bool
    subnet: int | None
    dtype: str
    out: str


class Checked(NamedTuple):
    """What the check of a subnet found: see `BuiltSubnet`."""

    error: float
    full_batch_us: float
