"""The canonical trace file."""

from pathlib import Path

import numpy as np
import pytest

from superserve.errors import TraceError
from superserve.traces.trace import Trace


def test_round_trip(tmp_path: Path) -> None:
    """What is saved is what is loaded, optional columns too."""
    arrivals = np.array([0, 5, 5, 9], np.int64)
    trace = Trace("t", arrivals, arrivals + 3, np.array([0, 1, 2, 0], np.int32), np.array([1, 1, 0, 2], np.int32))
    trace.save(tmp_path / "t.npz")
    loaded = Trace.load(tmp_path / "t.npz")
    assert loaded.name == "t"
    np.testing.assert_array_equal(loaded.arrival_ns, trace.arrival_ns)
    np.testing.assert_array_equal(loaded.slo_ns, trace.slo_ns)
    np.testing.assert_array_equal(loaded.priority, trace.priority)
    np.testing.assert_array_equal(loaded.request_class, trace.request_class)
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


def test_classes_of_deadlines_have_their_shares() -> None:
    """Three to one, each class with its own deadline; the arrivals stay."""
    trace = Trace("t", np.arange(10_000, dtype=np.int64))
    mixed = trace.mixed({20.0: 3.0, 100.0: 1.0}, np.random.default_rng(0))
    assert mixed.slo_ns is not None
    assert mixed.request_class is not None
    np.testing.assert_array_equal(mixed.arrival_ns, trace.arrival_ns)
    assert (mixed.request_class == 0).mean() == pytest.approx(0.75, abs=0.02)
    np.testing.assert_array_equal(mixed.slo_ns, np.where(mixed.request_class == 0, 20_000_000, 100_000_000))


@pytest.mark.parametrize("classes", [{}, {0.0: 1.0}, {20.0: 0.0}, {float("nan"): 1.0}])
def test_refuses_classes_without_deadline_or_weight(classes: dict[float, float]) -> None:
    """Nothing can be drawn from them."""
    with pytest.raises(TraceError, match="deadline classes"):
        Trace("t", np.zeros(2, np.int64)).mixed(classes, np.random.default_rng(0))
