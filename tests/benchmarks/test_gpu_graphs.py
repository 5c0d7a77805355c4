"""The benchmark of graphs with a device that is none: everything but torch's GPU runs."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from gpu_graphs import actuation_us, capture_all, cells, page, rates, targets
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
    engine, batches = GraphEngine(supernet, RecordingDevice(), batches=(1, 4)), [[pixels(1)], [pixels(4)]]
    memory = capture_all(engine, batches)
    assert (memory["graphs"], memory["eager"]) == (6, 0)
    found: dict[str, Any] = {
        "model": "small",
        "device": "None",
        "device_bytes": 2**34,
        "torch": "2",
        "rounds": 2,
        "memory": {**memory, "weight_bytes": 2**20, "taken_bytes": 2**21},
        "cells": cells(engine, EagerEngine(supernet), batches, 2),
        "actuation_us": actuation_us(engine, batches[0], 2),
        "rates": rates(engine, batches, 0.0),
    }
    assert [(row["subnet"], row["batch"]) for row in found["cells"]] == [
        (name, rows) for name in ("s0", "s1", "s2") for rows in (1, 4)
    ]
    assert all(row["alone"] > 0 < row["overlapped"] for row in found["rates"])
    text = page(found)
    assert "16 GiB" in text
    assert [line.split()[1] for line in text.splitlines()[-6:]] == ["s0", "s0", "s1", "s1", "s2", "s2"]
    assert len(list(targets(found))) == 2


def test_a_target_is_missed_by_the_slowest_subnet() -> None:
    row = {"batch": 1, "graphs_us": 100.0}
    found = {
        "cells": [{**row, "subnet": "a", "eager_us": 300.0}, {**row, "subnet": "b", "eager_us": 199.0}],
        "actuation_us": 100.0,
    }
    assert [met for _, _, met in targets(found)] == [False, True]
