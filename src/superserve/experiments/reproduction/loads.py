"""The paper's loads (sections 6.1 to 6.3) as trace sources."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from superserve.traces.arrivals import base_plus_gamma, gamma, ramp
from superserve.traces.convert import convert
from superserve.traces.readers.counts import read_counts
from superserve.traces.squeeze import Counts, draw
from superserve.traces.trace import Trace

#: The Azure Functions sample of the data folder: 14 days summed by minute of the day, 9,027 functions.
_AZURE: Final = ("traces/maf2019_per_minute.csv.gz", "sum14d_9027f")
#: One hour of conversations with Azure's language models, 19,366 requests.
_AZURE_LLM: Final = "traces/azure_llm_2023_conv.csv.gz"
#: Requests to the site of the 1998 football world championship, by minute.
_WORLD_CUP: Final = "traces/worldcup98_per_minute.csv.gz"
_MINUTE_S: Final = 60.0
_DAY_MINUTES: Final = 1_440


@dataclass(frozen=True)
class Azure:
    """Load (a): a day squeezed to ``seconds`` at a mean of ``rate`` requests/s, Poisson inside each minute."""

    data: Path
    rate: float
    seconds: float

    @property
    def name(self) -> str:
        """See `TraceSource.name`."""
        return f"Azure, {self.rate:g}/s"

    def trace(self, seed: int) -> Trace:
        """See `TraceSource.trace`."""
        file, column = _AZURE
        return convert(self.data / file, "counts", squeeze_s=self.seconds, rate=self.rate, seed=seed, column=column)


@dataclass(frozen=True)
class AzureLlm:
    """The hour of conversations, squeezed to ``seconds`` at a mean of ``rate`` requests/s."""

    data: Path
    rate: float
    seconds: float

    @property
    def name(self) -> str:
        """See `TraceSource.name`."""
        return f"Azure LLM, {self.rate:g}/s"

    def trace(self, seed: int) -> Trace:
        """See `TraceSource.trace`."""
        return convert(self.data / _AZURE_LLM, "azure-llm", squeeze_s=self.seconds, rate=self.rate, seed=seed)


@dataclass(frozen=True)
class WorldCup:
    """The 24 hours around the busiest minute of the world championship, squeezed to ``seconds``."""

    data: Path
    rate: float
    seconds: float

    @property
    def name(self) -> str:
        """See `TraceSource.name`."""
        return f"WorldCup98, {self.rate:g}/s"

    def trace(self, seed: int) -> Trace:
        """See `TraceSource.trace`."""
        counts = read_counts(self.data / _WORLD_CUP, _MINUTE_S).counts
        first = max(0, min(int(counts.argmax()) - _DAY_MINUTES // 2, len(counts) - _DAY_MINUTES))
        day = Counts.regular(counts[first : first + _DAY_MINUTES], _MINUTE_S)
        rng = np.random.default_rng(seed)
        return Trace(self.name, draw(day, squeeze_s=self.seconds, rate=self.rate, rng=rng)[0])


@dataclass(frozen=True)
class Bursty:
    """Load (b): evenly spaced ``base`` requests/s, and ``variant`` ones with gamma-distributed gaps."""

    base: float
    variant: float
    cv2: float
    seconds: float

    @property
    def name(self) -> str:
        """See `TraceSource.name`."""
        return f"{self.base:g} + {self.variant:g}/s, CV² {self.cv2:g}"

    def trace(self, seed: int) -> Trace:
        """See `TraceSource.trace`."""
        return base_plus_gamma(self.base, self.variant, self.cv2, self.seconds, np.random.default_rng(seed))


@dataclass(frozen=True)
class Ramp:
    """Load (c): from ``low`` to ``high`` requests/s by ``acceleration`` requests/s², from ``start_s`` on."""

    low: float
    high: float
    acceleration: float
    cv2: float
    seconds: float
    start_s: float

    @property
    def name(self) -> str:
        """See `TraceSource.name`."""
        return f"{self.low:g} to {self.high:g}/s by {self.acceleration:g}/s²"

    def trace(self, seed: int) -> Trace:
        """See `TraceSource.trace`."""
        rng = np.random.default_rng(seed)
        return ramp(self.low, self.high, self.acceleration, self.cv2, self.seconds, rng, self.start_s)


@dataclass(frozen=True)
class Steady:
    """Load (d): one rate with gamma-distributed gaps."""

    rate: float
    cv2: float
    seconds: float

    @property
    def name(self) -> str:
        """See `TraceSource.name`."""
        return f"{self.rate:g}/s, CV² {self.cv2:g}"

    def trace(self, seed: int) -> Trace:
        """See `TraceSource.trace`."""
        return gamma(self.rate, self.cv2, self.seconds, np.random.default_rng(seed))
