"""The canonical trace file."""

from pathlib import Path

import numpy as np
import pytest

from superserve.errors import TraceError
from superserve.traces.trace import Trace


def test_round_trip(tmp_path: Path) -> None:
    """What is saved is what is loaded, optional columns too."""
    arrivals = np.array([0, 5, 5, 9], np.int64)
    trace = Trace("t", arrivals, arrivals + 3, np.array([0, 1, 2, 0], np.int32))
    trace.save(tmp_path / "t.npz")
    loaded = Trace.load(tmp_path / "t.npz")
    assert loaded.name == "t"
    np.testing.assert_array_equal(loaded.arrival_ns, trace.arrival_ns)
    np.testing.assert_array_equal(loaded.slo_ns, trace.slo_ns)
    np.testing.assert_array_equal(loaded.priority, trace.priority)
    assert [path.name for path in tmp_path.iterdir()] == ["t.npz"]


@pytest.mark.parametrize("arrivals", [[-1, 0], [3, 2]])
def test_refuses_arrivals_out_of_order(arrivals: list[int]) -> None:
    """Time starts at 0 and never runs back."""
    with pytest.raises(TraceError, match="arrival_ns"):
        Trace("t", np.array(arrivals, np.int64))


def test_refuses_columns_of_another_length() -> None:
    """One value per arrival."""
    with pytest.raises(TraceError, match="slo_ns"):
        Trace("t", np.zeros(3, np.int64), np.zeros(2, np.int64))


def test_unreadable_file_is_named(tmp_path: Path) -> None:
    """Missing, not an archive, or without the column."""
    garbage = tmp_path / "garbage.npz"
    garbage.write_bytes(b"not a zip")
    np.savez(tmp_path / "other.npz", a=np.zeros(1))
    for name in ("missing.npz", "garbage.npz", "other.npz"):
        with pytest.raises(TraceError, match=name):
            Trace.load(tmp_path / name)
