"""On machines and subnets of which the answer is known."""

import hypothesis.strategies as st
import msgspec
import numpy as np
import pytest
from hypothesis import given

from superserve.levers import (
    CellCosts,
    LeverReport,
    LeverStep,
    Machine,
    Region,
    Stream,
    Work,
    costs,
    line,
)

#: 1 GMAC/s, 10 us a launch; 10 GB/s up to a megabyte, 1 GB/s beyond.
MACHINE = Machine(
    macs_per_s=1e9,
    launch_us=10.0,
    streams=(Stream(bytes=1_000_000, bytes_per_s=1e10), Stream(bytes=100_000_000, bytes_per_s=1e9)),
)
BATCHES = (1, 2, 4, 8)


def cells(work: Work, fixed_us: float, per_row_us: float) -> list[CellCosts]:
    return costs("s", BATCHES, [fixed_us + per_row_us * rows for rows in BATCHES], work, MACHINE)


def test_the_stream_is_that_of_a_buffer_of_the_size() -> None:
    sizes = (1, 1_000_000, 1_000_001, 10**9)
    assert [MACHINE.bytes_per_s(size) for size in sizes] == [1e10, 1e10, 1e9, 1e9]


@given(st.floats(0, 1e4), st.floats(0.1, 1e4))
def test_a_line_is_found_again(fixed: float, per_row: float) -> None:
    found = line(BATCHES, [fixed + per_row * rows for rows in BATCHES])
    np.testing.assert_allclose(found, (fixed, per_row), rtol=1e-4, atol=1e-4 * (fixed + per_row))


@given(st.lists(st.floats(1, 1e5), min_size=4, max_size=4))
def test_neither_part_of_a_line_is_negative(taken: list[float]) -> None:
    assert min(line(BATCHES, taken)) >= 0


def test_one_batch_size_says_nothing_of_a_fixed_part() -> None:
    assert line((4,), (100.0,)) == (0.0, 25.0)


@pytest.mark.parametrize(
    ("work", "fixed_us", "per_row_us", "regions"),
    [
        # 100 operators take 1 ms at least, a row 0.1 ms: launching is most of it until ten rows come at once.
        (Work(operators=100, weight_bytes=1000, activation_bytes=0, macs=10**5), 1000, 100, ["launch"] * 4),
        (Work(operators=100, weight_bytes=1000, activation_bytes=0, macs=10**5), 1000, 300,
         ["launch", "launch", "compute", "compute"]),
        # 50 MB of weights take 50 ms at least, ten launches a tenth of one.
        (Work(operators=10, weight_bytes=50_000_000, activation_bytes=0, macs=10**6), 60_000, 1000, ["memory"] * 4),
        # A row moves 5 MB at once: 5 ms, and computes for 1.
        (Work(operators=1, weight_bytes=0, activation_bytes=5_000_000, macs=10**6), 10, 6000, ["memory"] * 4),
        (Work(operators=1, weight_bytes=0, activation_bytes=500_000, macs=10**6), 10, 6000, ["compute"] * 4),
    ],
)  # fmt: skip
def test_the_region_is_what_most_of_the_time_goes_to(
    work: Work, fixed_us: float, per_row_us: float, regions: list[Region]
) -> None:
    found = cells(work, fixed_us, per_row_us)
    assert [cell.region for cell in found] == regions
    for cell, rows in zip(found, BATCHES, strict=True):
        fixed_share = fixed_us / (fixed_us + per_row_us * rows)
        assert cell.share == pytest.approx(max(fixed_share, 1 - fixed_share), abs=1e-3)
        assert cell.fixed_us == pytest.approx(fixed_us, rel=1e-3)


def test_memory_may_be_both_weights_and_activations() -> None:
    """Either alone would be less than computing or launching; together they are everything."""
    work = Work(operators=10, weight_bytes=50_000_000, activation_bytes=20_000_000, macs=10**6)
    assert {(cell.region, cell.share) for cell in cells(work, 60_000, 30_000)} == {("memory", 1.0)}


def test_least_times_are_those_of_the_machine() -> None:
    work = Work(operators=7, weight_bytes=2_000_000, activation_bytes=700_000, macs=3 * 10**6)
    last = cells(work, 1000, 4000)[-1]
    assert (last.launch_us, last.weights_us, last.compute_us) == (70.0, 2000.0, 24_000.0)
    assert last.activations_us == 560.0, "5.6 MB, 0.8 MB at a time: out of a cache"


def step(lever: str, saved_us: float, lost: float | None, error_us: float = 1.0) -> LeverStep:
    return LeverStep(
        subnet="s", batch=4, lever=lever, saved_us=saved_us, saved_share=0.1, error_us=error_us, lost=lost
    )  # fmt: skip


def report(*steps: LeverStep) -> LeverReport:
    return LeverReport(machine=MACHINE, work={}, cells=(), steps=steps, examples=10)


def test_the_cheapest_lever_comes_first() -> None:
    """In points lost per microsecond saved; what saves nothing beyond doubt does not pay."""
    found = report(
        step("dear", 10, 1.0), step("doubtful", 10, 0.0, error_us=6), step("cheap", 100, 2.0), step("batch", 5, 0)
    )
    assert [one.lever for one in found.paying("s", 4)] == ["batch", "cheap", "dear"]
    assert found.paying("s", 1) == found.paying("t", 4) == []


def test_what_nobody_can_price_is_ordered_by_what_it_saves() -> None:
    found = report(step("little", 10, None), step("much", 100, None), step("batch", 5, 0))
    assert [one.lever for one in found.paying("s", 4)] == ["batch", "much", "little"]


def test_a_report_is_kept_with_its_profile() -> None:
    whole = report(step("depth", 3, 1.0))
    assert msgspec.json.decode(msgspec.json.encode(whole), type=LeverReport) == whole
