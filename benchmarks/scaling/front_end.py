"""What one front end costs per request: measured by ``http_path.py``, a server and a client on a core each."""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import msgspec

_PROGRAM: Final = Path(__file__).parent.parent / "http_path.py"


class FrontEnd(msgspec.Struct, frozen=True, kw_only=True):
    """CPU of the server per request, in microseconds: HTTP, router and scheduler, with workers that answer at once."""

    runs: int
    median_us: float
    least_us: float
    most_us: float

    @property
    def requests_per_s(self) -> float:
        """What a core that does nothing else would keep up with."""
        return 1e6 / self.median_us


def measure(runs: int, seconds: float) -> FrontEnd:
    """The median of some runs.

    Raises:
        subprocess.CalledProcessError: if one failed; what it printed stands above.
    """
    times_us = [_once(seconds) for _ in range(runs)]
    return FrontEnd(runs=runs, median_us=statistics.median(times_us), least_us=min(times_us), most_us=max(times_us))


def _once(seconds: float) -> float:
    with tempfile.TemporaryDirectory(prefix="superserve-scaling-") as scratch:
        figures = Path(scratch) / "figures.json"
        subprocess.run([sys.executable, _PROGRAM, "--seconds", str(seconds), "--json", figures], check=True)
        found: float = json.loads(figures.read_text())["tables"][0]["rows"]["cpu_us_per_request"]
    return found
