"""The benchmark of graphs with a device that is none: everything but torch's GPU runs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from gpu_graphs import batches_of, capture_all, compare, figures, page, targets
from subnetact import graphs
from subnetact.families import CASES
from subnetact.progress import Progress
from superserve.supernet.engine import EagerEngine
from superserve.supernet.graphs import GraphEngine
from support.graph_device import RecordingDevice
from support.supernets import TINY, pixels, small_supernet


@pytest.fixture
def _one_thread() -> Iterator[None]:
    """A second one only waits for the first, on a machine that is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_one_thread")
def test_what_is_measured_becomes_a_page() -> None:
    supernet = small_supernet(architecture=TINY)
    engine, batches = GraphEngine(supernet, RecordingDevice(), batches=(1, 4)), batches_of([pixels(3)], (1, 4))
    memory = capture_all(engine, batches)
    assert (memory["graphs"], memory["eager"]) == (6, 0)
    found: dict[str, Any] = {
        "model": "small",
        "device": "None",
        "device_bytes": 2**34,
        "torch": "2",
        "memory": {**memory, "weight_bytes": 2**20, "taken_bytes": 2**21},
        **compare(engine, EagerEngine(supernet), batches, 2, 0.0),
    }
    assert [(row["subnet"], row["batch"]) for row in found["cells"]] == [
        (name, rows) for name in ("s0", "s1", "s2") for rows in (1, 4)
    ]
    assert all(row["alone"] > 0 < row["overlapped"] for row in found["rates"])
    text = page(found)
    assert "16 GiB" in text
    assert [line.split()[1] for line in text.splitlines()[-6:]] == ["s0", "s0", "s1", "s1", "s2", "s2"]
    assert len(list(targets(found))) == 2
    section = "\n".join(graphs.lines({"digits": found}))
    assert section.startswith("### digits (bundled, 32x32 scale)\n")
    assert "\n".join(figures(found)) in section


def test_the_page_of_all_engines_says_so_where_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Measuring there fails nothing, and leaves no figures of an earlier machine."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    found = {one.name: graphs.measure(one, tmp_path, quick=True, progress=Progress()) for one in CASES[:2]}
    assert list(graphs.lines(found)) == ["Not measured: this machine has no GPU that torch can use."]


def test_a_target_is_missed_by_the_slowest_subnet() -> None:
    row = {"batch": 1, "graphs_us": 100.0}
    found = {
        "cells": [{**row, "subnet": "a", "eager_us": 300.0}, {**row, "subnet": "b", "eager_us": 199.0}],
        "actuation_us": 100.0,
    }
    assert [met for _, _, met in targets(found)] == [False, True]
