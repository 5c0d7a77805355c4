"""What is done to which server, and what it has to keep."""

from dataclasses import dataclass
from typing import Final

from chaos.faults import Kind


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A run.

    ``load`` is a share of what the workers do at the middle subnet. ``slo_ms``: None leaves time for a request to lose
    its worker once (`slo_ms_of`). ``attained``: the least SLO attainment, if it is a promise here; ``recovers``:
    whether it is one that accuracy does. ``rescues``: whether no request may be lost that had slack left for itself
    when its worker was lost. Where deadlines are short and batches large, there may not be enough for all of a batch
    together: what became of them is told.
    """

    name: str
    title: str
    device: str
    workers: int
    kinds: tuple[Kind, ...]
    seconds: float = 180.0
    every_s: float = 5.0
    load: float = 0.6
    slo_ms: float | None = None
    attained: float | None = None
    recovers: bool = False
    rescues: bool = True


MODEL: Final = "digits"

SCENARIOS: Final = (
    Scenario(
        name="real",
        title="Two real workers, one killed every 5 s",
        device="cpu",
        workers=2,
        kinds=("kill",),
    ),
    Scenario(
        name="emulated",
        title="Eight emulated workers, one killed every 5 s",
        device="emulated:r-profile",
        workers=8,
        kinds=("kill",),
        slo_ms=36.0,
        attained=0.98,
        recovers=True,
        rescues=False,
    ),
    Scenario(
        name="mixed",
        title="Eight emulated workers: killed, stopped, ten times as slow, and fed with what they die of",
        device="emulated:r-profile",
        workers=8,
        kinds=("kill", "hang", "slow", "poison"),
        seconds=60.0,
        slo_ms=1000.0,
    ),
)
