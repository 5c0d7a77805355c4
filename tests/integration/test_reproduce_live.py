"""The parts of ``superserve reproduce`` that start servers, at a twentieth of their length."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from superserve.experiments.reproduce import reproduce
from superserve.experiments.reproduction import throughput

pytestmark = pytest.mark.integration


def test_live_check_writes_its_table(tmp_path: Path) -> None:
    """Three loads, one repetition: a row each, with a prediction beside it."""
    traces = tmp_path / "data/traces"
    traces.mkdir(parents=True)
    with gzip.open(traces / "maf2019_per_minute.csv.gz", "wt") as file:
        file.write("minute_of_day,sum14d_9027f\n" + "".join(f"{minute},{100 + minute % 7}\n" for minute in range(100)))
    stamps = np.sort(np.random.default_rng(0).random(500) * 3600)
    with gzip.open(traces / "azure_llm_2023_conv.csv.gz", "wt") as file:
        file.write("arrival_s\n" + "".join(f"{stamp}\n" for stamp in stamps))
    (found,) = reproduce(["live"], out=tmp_path, data=tmp_path / "data", seeds=1, seconds_factor=0.05)
    assert found.table is not None
    assert [row[1] for row in found.table.rows] == ["Azure Functions", "Azure LLM", "gamma, CV² 8"]
    assert all(0 <= float(cell) <= 1 for row in found.table.rows for cell in row[2:4])
    page = (tmp_path / "reproduction.md").read_text()
    assert "| repetition | load |" in page
    assert "## Thresholds" in page


def test_scaling_is_measured_live_and_simulated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row per number of workers, the live one with an emulated worker; whatever this machine carries."""
    monkeypatch.setattr(throughput, "LIVE_WORKERS", (1,))
    (found,) = reproduce(["E7"], out=tmp_path, seeds=1, seconds_factor=0.1, processes=1)
    assert found.table is not None
    assert [row[0] for row in found.table.rows] == ["1", "2", "4", "8", "16", "32"]
    assert [row[3] == "-" for row in found.table.rows] == [False] + [True] * 5
    assert (tmp_path / "images/reproduction/E7.png").exists()
