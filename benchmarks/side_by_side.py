"""Time alternatives side by side: interleaved rounds, medians and spread, ratios to the first."""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def measure(alternatives: dict[str, Callable[[], int]], rounds: int = 15) -> dict[str, list[float]]:
    """Microseconds per operation and round, by alternative.

    Each alternative does a round's work and returns how many operations that was. Rounds are interleaved, so that
    drift of the machine hits all alike; one round of each is thrown away as warm-up.
    """
    times: dict[str, list[float]] = {name: [] for name in alternatives}
    for number in range(rounds + 1):
        for name, work in alternatives.items():
            start = time.perf_counter_ns()
            operations = work()
            if number:
                times[name].append((time.perf_counter_ns() - start) / 1000 / operations)
    return times


def table(title: str, times: dict[str, list[float]]) -> dict[str, Any]:
    """Print medians, ranges and ratios; return them for JSON."""
    first = statistics.median(next(iter(times.values())))
    rows = {}
    print(f"\n{title}")
    for name, values in times.items():
        low, median, high = min(values), statistics.median(values), max(values)
        rows[name] = {"median_us": median, "min_us": low, "max_us": high, "ratio": median / first}
        print(f"  {name:<42} {median:9.2f} us  ({low:.2f}-{high:.2f})  x{median / first:.2f}")
    return {"title": title, "rows": rows}


def json_argument(description: str) -> Path | None:
    """The value of ``--json FILE`` on the command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the tables as JSON")
    path: Path | None = parser.parse_args().json
    return path


def write(path: Path | None, tables: list[dict[str, Any]]) -> None:
    """Write the tables where ``--json`` said."""
    if path is not None:
        path.write_text(json.dumps({"tables": tables}, indent=2) + "\n")
