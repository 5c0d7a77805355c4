"""What can go wrong with worker processes, and how long things take in them."""

from dataclasses import dataclass
from enum import StrEnum

from superserve.clock import NS_PER_MS, NS_PER_US


class Trouble(StrEnum):
    """What can go wrong with a worker's next batch."""

    DIES_BEFORE = "dies before it answers"
    DIES_AFTER = "dies as soon as it has answered"
    DIES_AT_ONCE = "dies when it gets the batch"
    HANGS = "hangs"
    RAISES = "raises"
    NONSENSE = "answers what is no message"
    WRONG_SEQ = "answers a batch that it was not given"
    WRONG_KIND = "answers that it is ready"


class StartTrouble(StrEnum):
    """What can go wrong when a worker's next process starts."""

    REFUSED = "the operating system refuses"
    SAYS_WHY = "says why it cannot start"
    DIES = "dies while it loads"
    HANGS = "never gets ready"
    SLOW = "loads ten times as long"


@dataclass(frozen=True)
class Costs:
    """How long things take, in nanoseconds."""

    import_ns: int = 60 * NS_PER_MS
    load_ns: int = 20 * NS_PER_MS
    wake_ns: int = 50 * NS_PER_US
    end_ns: int = 300 * NS_PER_US
    """From a kill to the end that it brings."""
