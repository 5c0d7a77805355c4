"""What the headline's runs are made of: recorded traces, scaled to what the machine carries."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from superserve.experiments.load import LOAD_FACTOR, SLO_FACTOR, full_batch_rate
from superserve.experiments.reproduction.loads import Azure, AzureLlm, WorldCup
from superserve.experiments.scenario import TraceSource
from superserve.profile import Profile

#: By name, from data folder, mean requests/s and seconds.
TRACES: Final[Mapping[str, Callable[[Path, float, float], TraceSource]]] = {
    "azure": Azure,
    "azure-llm": AzureLlm,
    "worldcup98": WorldCup,
}


def mean_rate(profile: Profile) -> float:
    """Requests per second that the middle subnet just carries, on average; as in the demo."""
    return LOAD_FACTOR * full_batch_rate(profile, len(profile.subnets) // 2)


def slo_ms(profile: Profile) -> float:
    """The deadline of every request; as in the demo."""
    return SLO_FACTOR * profile.largest_cell_ms()


def nearest_subnet(profile: Profile, accuracy: float) -> str:
    """The subnet whose accuracy is nearest."""
    return min(profile.subnets, key=lambda subnet: abs(subnet.accuracy - accuracy)).id
