"""What the headline's runs are made of: recorded traces, scaled to what the machine carries."""

import argparse
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from superserve.experiments.load import LOAD_FACTOR, SLO_FACTOR, full_batch_rate
from superserve.experiments.reproduction.loads import Azure, AzureLlm, WorldCup
from superserve.experiments.scenario import TraceSource
from superserve.model_folder import bundled_models
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


def parser_of(description: str | None, seconds: float) -> argparse.ArgumentParser:
    """The arguments that programs with these runs have in common; ``seconds`` is the usual length of a run."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    given = os.environ.get("SUPERSERVE_DATA")
    parser.add_argument("--data", type=Path, metavar="DIR", default=given, required=given is None)
    parser.add_argument("--only", nargs="+", choices=bundled_models(), default=list(bundled_models()), metavar="MODEL")
    parser.add_argument("--seconds", type=float, default=seconds, help="length of each run")
    parser.add_argument("--again", action="store_true", help="measure anew what is kept")
    parser.add_argument(
        "--runs", type=Path, metavar="DIR", default=Path("runs/headline"), help="keeps what was measured"
    )
    return parser
