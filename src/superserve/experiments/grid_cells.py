"""The cells of the policy grid: which loads, profiles and deadlines policies are compared in."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import msgspec
import numpy as np

from superserve.clock import NS_PER_MS, NS_PER_S
from superserve.experiments.scenario import Scenario
from superserve.experiments.shapes import R_PROFILE, synthetic_profile
from superserve.profile import LatencyTable, Profile
from superserve.traces.arrivals import base_plus_gamma, ramp
from superserve.traces.convert import convert
from superserve.traces.squeeze import scale
from superserve.traces.trace import Trace

Arrivals = Literal["gamma", "ramp", "recorded"]

#: Levels of each factor; every level occurs about equally often, in random combinations (seeded).
SHAPES: Final = (R_PROFILE, R_PROFILE, "gpu", "gpu", "cpu", "cpu", "digits", "steep")
SUBNETS: Final = (2, 3, 6, 6, 6, 20, 100, 1000)
WORKERS: Final = (1, 1, 2, 4, 8, 16, 64)
LOADS: Final = (0.3, 0.5, 0.7, 0.9, 1.1, 1.3, 1.5)
CV2S: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 64.0)
SLO_FACTORS: Final = (0.5, 0.8, 1.17, 1.17, 2.0, 3.0)
OVERHEADS_MS: Final = (0.0, 0.5, 1.0, 4.0)
BASE_SHARES: Final = (0.0, 0.2, 0.5)
MIXED: Final = (False, False, False, True)
#: Requests with mixed deadlines get these multiples of the cell's SLO, equally often.
MIXED_FACTORS: Final = (1.0, 2.0, 4.0)
#: Name, format and column of recorded loads, in the layout of the data folder.
RECORDINGS: Final = {
    "maf2019": ("traces/maf2019_per_minute.csv.gz", "counts", "sum14d_9027f"),
    "maf2019-8h": ("traces/maf2019_8h_500functions.csv.gz", "azure-functions", None),
    "worldcup98": ("traces/worldcup98_per_minute.csv.gz", "counts", None),
    "azure-llm": ("traces/azure_llm_2023_conv.csv.gz", "azure-llm", None),
    "mooncake": ("traces/mooncake_conversation.csv.gz", "mooncake", None),
}
SEEDS: Final = 3
SEEDS_IF_BURSTY: Final = 10
BURSTY_CV2: Final = 16.0


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One situation.

    ``load``: mean requests/s over what all workers carry at the middle subnet, full batches, without overhead.
    ``slo_factor``: SLO over the slowest cell of the profile. ``base_share``: of the load that arrives evenly spaced
    (gamma). ``cv2``: squared coefficient of variation of the gaps; of a recording 0, which is not used.
    ``recording``: a key of `RECORDINGS`.
    """

    shape: str
    subnets: int
    workers: int
    arrivals: Arrivals
    load: float
    cv2: float
    base_share: float
    slo_factor: float
    overhead_ms: float
    mixed_slos: bool
    recording: str = ""

    @property
    def seeds(self) -> int:
        """How many seeds make its mean certain enough."""
        return SEEDS_IF_BURSTY if self.cv2 >= BURSTY_CV2 else SEEDS

    @property
    def requests(self) -> int:
        """Length of a run: longer where many workers eat them up in no time."""
        return 40_000 if self.workers >= 16 else 20_000

    @property
    def profile(self) -> Profile:
        """Its profile."""
        return synthetic_profile(self.shape, self.subnets)

    @property
    def slo_ms(self) -> float:
        """Its SLO, the shortest where they are mixed."""
        return self.slo_factor * self.profile.largest_cell_ms()

    @property
    def name(self) -> str:
        """All factors in a line."""
        load = self.recording or f"{self.arrivals} cv2={self.cv2:g} base={self.base_share:g}"
        slos = " mixed" if self.mixed_slos else ""
        return (
            f"{self.shape}/{self.subnets} x{self.workers} load={self.load:g} {load} slo={self.slo_factor:g}{slos} "
            f"overhead={self.overhead_ms:g}"
        )

    def scenario(self, data: Path | None, requests: int | None = None) -> Scenario:
        """What is simulated; ``data`` is needed for recordings, ``requests`` stands in for its own number."""
        return Scenario(
            CellTrace(self, data, requests or self.requests), self.profile, self.workers, self.slo_ms, self.overhead_ms
        )


@dataclass(frozen=True)
class CellTrace:
    """The arrivals of a cell."""

    cell: Cell
    data: Path | None
    requests: int

    @property
    def name(self) -> str:
        """See `TraceSource.name`."""
        return self.cell.name

    def trace(self, seed: int) -> Trace:
        """See `TraceSource.trace`."""
        rng = np.random.default_rng(seed)
        trace = self._arrivals(rng, seed)
        if not self.cell.mixed_slos:
            return trace
        slos_ms = rng.choice(self.cell.slo_ms * np.array(MIXED_FACTORS), len(trace))
        return Trace(trace.name, trace.arrival_ns, (slos_ms * NS_PER_MS).astype(np.int64))

    def _arrivals(self, rng: np.random.Generator, seed: int) -> Trace:
        cell = self.cell
        rate = cell.load * middle_capacity(cell.profile) * cell.workers
        seconds = self.requests / rate
        if cell.arrivals == "ramp":
            # A third of the load, then up to all of it within a fifth of the time.
            acceleration = (rate - rate / 3) / (seconds / 5)
            return ramp(rate / 3, rate, acceleration, cell.cv2, 1.4 * seconds, rng, seconds / 2)
        if cell.arrivals == "gamma":
            return base_plus_gamma(rate * cell.base_share, rate * (1 - cell.base_share), cell.cv2, seconds, rng)
        assert self.data is not None, "recordings need the data folder"
        path, kind, column = RECORDINGS[cell.recording]
        if kind in ("counts", "azure-functions"):
            return convert(self.data / path, kind, squeeze_s=seconds, rate=rate, seed=seed, column=column)
        recorded = convert(self.data / path, kind, seed=seed)
        return scale(recorded, squeeze_s=seconds, rate=rate, rng=rng)


def middle_capacity(profile: Profile) -> float:
    """Requests/s that one worker carries at the middle subnet and its most efficient batch."""
    table = LatencyTable(profile)
    row = table.latency_ns[len(table) // 2]
    return max(batch * NS_PER_S / row[batch] for batch in table.batches)


def grid(count: int, *, recordings: bool, seed: int = 0) -> list[Cell]:
    """``count`` cells: about an eighth ramps, a sixth recordings where there are any, the rest gamma arrivals.

    Each factor's levels are dealt out like cards, so that all occur about equally often whatever the count.
    """
    rng = np.random.default_rng(seed)

    def deal(levels: tuple[object, ...]) -> list[object]:
        pack = [levels[number % len(levels)] for number in range(count)]
        return [pack[index] for index in rng.permutation(count)]

    kinds: tuple[Arrivals, ...] = ("gamma",) * 17 + ("ramp",) * 3 + (("recorded",) * 4 if recordings else ())
    columns = [deal(one) for one in (SHAPES, SUBNETS, WORKERS, LOADS, CV2S, SLO_FACTORS, OVERHEADS_MS, BASE_SHARES)]
    mixed, names, arrivals = deal(MIXED), deal(tuple(RECORDINGS)), deal(kinds)
    return [_cell(*values) for values in zip(*columns, mixed, names, arrivals, strict=True)]


def _cell(*values: object) -> Cell:
    shape, subnets, workers, load, cv2, slo_factor, overhead_ms, base_share, mixed, name, arrivals = values
    return msgspec.convert(
        {
            "shape": shape,
            "subnets": subnets,
            "workers": workers,
            "arrivals": arrivals,
            "load": load,
            "cv2": 0.0 if arrivals == "recorded" else cv2,
            "base_share": base_share if arrivals == "gamma" else 0.0,
            "slo_factor": slo_factor,
            "overhead_ms": overhead_ms,
            "mixed_slos": mixed,
            "recording": name if arrivals == "recorded" else "",
        },
        Cell,
    )
