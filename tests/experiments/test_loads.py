"""The recorded loads."""

import gzip
from pathlib import Path

import numpy as np

from superserve.clock import NS_PER_S
from superserve.experiments.reproduction.loads import WorldCup


def test_the_world_cup_is_the_day_around_its_busiest_minute(tmp_path: Path) -> None:
    """A day squeezed to a day's number of seconds has a second per minute, the busiest of them in the middle."""
    counts = np.ones(10_000, int)
    counts[7_000] = 500
    (tmp_path / "traces").mkdir()
    with gzip.open(tmp_path / "traces" / "worldcup98_per_minute.csv.gz", "wt") as file:
        file.write("minute,requests\n")
        file.writelines(f"{minute},{count}\n" for minute, count in enumerate(counts))
    trace = WorldCup(tmp_path, rate=2.0, seconds=1_440.0).trace(0)
    seconds = np.bincount(trace.arrival_ns // NS_PER_S, minlength=1_440)
    assert seconds.argmax() == 720
    assert seconds[720] > 100 * np.median(seconds)
    assert abs(len(trace) - 2_880) < 300
