from pathlib import Path

import msgspec
import numpy as np
import pytest

from superserve.clock import NS_PER_MS
from superserve.experiments.grid_cells import RECORDINGS, Cell, grid
from superserve.experiments.grid_report import grid_figure, grid_page
from superserve.experiments.grid_runs import OURS, SLACKFIT, Run, fingerprint, policies, run_grid
from superserve.experiments.policy_grid import TOLERANCE, GridVerdict, judge

CELL = Cell(
    shape="r-profile",
    subnets=6,
    workers=8,
    arrivals="gamma",
    load=0.9,
    cv2=8.0,
    base_share=0.2,
    slo_factor=1.17,
    overhead_ms=1.0,
    mixed_slos=False,
)


def varied(**changes: object) -> Cell:
    return msgspec.convert({**msgspec.structs.asdict(CELL), **changes}, Cell)


#: A dozen cells of the kinds that the whole grid has, short enough for every test run.
DOZEN = (
    CELL,
    varied(load=1.5, cv2=64.0, overhead_ms=0.0),
    varied(workers=1, load=0.7, cv2=2.0),
    varied(workers=16, load=1.1, cv2=4.0),
    varied(shape="gpu", workers=2, slo_factor=2.0, load=1.3),
    varied(shape="gpu", subnets=100, arrivals="ramp", load=1.1, cv2=1.0, base_share=0.0),
    varied(shape="cpu", workers=1, load=0.9, cv2=1.0, slo_factor=3.0, overhead_ms=4.0),
    varied(shape="cpu", workers=4, load=1.3, cv2=16.0, overhead_ms=0.0),
    varied(shape="digits", workers=1, load=0.9),
    varied(shape="digits", subnets=1000, workers=4, load=1.5, cv2=16.0, base_share=0.0),
    varied(shape="steep", workers=8, load=0.7, mixed_slos=True),
    varied(subnets=2, workers=8, load=0.5, slo_factor=3.0),
)
REQUESTS = 3000


@pytest.fixture(scope="module")
def verdict(tmp_path_factory: pytest.TempPathFactory) -> GridVerdict:
    file = tmp_path_factory.mktemp("grid") / "runs.jsonl"
    return judge(run_grid(DOZEN, file, most_seeds=2, requests=REQUESTS, processes=1))


@pytest.mark.slow
def test_our_policy_is_nowhere_far_below_the_best_of_the_others(verdict: GridVerdict) -> None:
    """Two seeds of short runs: the tolerance is wider than the whole grid's, and a spiral costs whole points."""
    assert {one.cell.name: one.advantage.mean for one in verdict.cells if one.advantage.mean < -0.5} == {}
    assert np.mean([one.advantage.mean for one in verdict.cells]) > 0


@pytest.mark.slow
def test_our_policy_is_close_to_the_bound(verdict: GridVerdict) -> None:
    assert 0 <= verdict.mean_distance < 0.4 * verdict.slackfit_mean_distance


@pytest.mark.slow
def test_no_policy_passes_the_bound(verdict: GridVerdict) -> None:
    assert all(one.bound >= max(one.goodput.values()) for one in verdict.cells)


@pytest.mark.slow
def test_page_and_figure_show_every_check(verdict: GridVerdict) -> None:
    page = grid_page(verdict, "figure.png")
    assert "![" in page
    assert verdict.cells[0].cell.name in page
    assert all(len(line.split("|")) > 3 for line in page.splitlines() if line.startswith("|"))
    assert [len(ax.collections) + len(ax.get_lines()) > 0 for ax in grid_figure(verdict).axes] == [True, True]


def test_grid_covers_every_level_about_equally() -> None:
    cells = grid(216, recordings=True)
    assert len(set(cells)) == 216
    counts = {workers: sum(cell.workers == workers for cell in cells) for workers in (1, 2, 4, 8, 16, 64)}
    assert counts == {1: 62, 2: 31, 4: 31, 8: 31, 16: 31, 64: 30}
    assert {cell.recording for cell in cells} == {"", *RECORDINGS}
    assert sum(cell.arrivals == "ramp" for cell in cells) == 27
    assert grid(216, recordings=True) == cells
    assert not any(cell.recording for cell in grid(216, recordings=False))


def test_bursty_cells_get_more_seeds() -> None:
    assert (varied(cv2=8.0).seeds, varied(cv2=16.0).seeds) == (3, 10)


def test_arrivals_have_the_load_and_the_deadlines_of_their_cell() -> None:
    scenario = varied(workers=1, mixed_slos=True, cv2=1.0).scenario(None)
    trace = scenario.source.trace(0)
    # The middle of R-PROFILE carries 16 requests in 18.06 ms; 0.9 of that is 797.
    assert trace.mean_rate == pytest.approx(797, rel=0.03)
    assert trace.slo_ns is not None
    assert np.unique(trace.slo_ns / NS_PER_MS).round(1).tolist() == [35.9, 71.8, 143.7]
    assert np.array_equal(trace.arrival_ns, scenario.source.trace(0).arrival_ns)


def test_ramps_end_at_three_times_the_rate_they_start_at() -> None:
    trace = varied(arrivals="ramp", cv2=1.0, base_share=0.0).scenario(None).source.trace(0)
    quarters_ns = [trace.arrival_ns[-1] // 4, 3 * trace.arrival_ns[-1] // 4]
    start, end = np.searchsorted(trace.arrival_ns, quarters_ns)
    assert (len(trace) - end) / start == pytest.approx(3.0, rel=0.15)


def test_policies_are_ours_the_papers_and_spread_fixed_ones() -> None:
    assert policies(varied(subnets=2)) == [OURS, SLACKFIT, "maxbatch", "maxacc", "fixed:n0", "fixed:n1"]
    assert len(policies(varied(subnets=1000))) == 12
    assert policies(varied(subnets=1000))[-1] == "fixed:n999"


def test_finished_runs_are_not_run_again(tmp_path: Path) -> None:
    file = tmp_path / "runs.jsonl"
    cells = [varied(workers=1, subnets=2)]
    jobs: list[int] = []

    def count(done: int, total: int, label: str) -> None:
        jobs.append(total)

    first = run_grid(cells, file, most_seeds=1, requests=200, processes=1, on_progress=count)
    file.write_bytes(file.read_bytes() + b'{"torn')
    assert run_grid(cells, file, most_seeds=1, requests=200, processes=1, on_progress=count) == first
    assert jobs == [1]
    # Runs of other code, or of another length, are no longer valid.
    lines = [msgspec.structs.replace(run, code="old") for run in first]
    file.write_bytes(b"".join(msgspec.json.encode(run) + b"\n" for run in lines))
    assert run_grid(cells, file, most_seeds=1, requests=200, processes=1, on_progress=count) == first
    assert len(jobs) == 2
    kept = run_grid(cells, file, most_seeds=1, requests=300, processes=1, keep_others=True, on_progress=count)
    assert len(jobs) == 3
    assert kept != first


def test_fingerprints_tell_our_code_from_theirs() -> None:
    assert fingerprint(OURS) != fingerprint(SLACKFIT) == fingerprint("maxacc")


def fake_runs(ours: list[float], slackfit: list[float], fixed: list[float]) -> list[Run]:
    common = {"cell": CELL, "code": "", "requests": 1, "accuracy": 80.0, "bound": 90.0}
    return [
        msgspec.convert({**common, "seed": seed, "policy": policy, "attainment": value / 100, "goodput": value}, Run)
        for policy, values in ((OURS, ours), (SLACKFIT, slackfit), ("fixed:n0", fixed))
        for seed, value in enumerate(values)
    ]


def test_verdict_takes_the_best_other_policy_and_pairs_by_seed() -> None:
    verdict = judge(fake_runs([70, 80], [60, 60], [69, 79]))
    (one,) = verdict.cells
    assert one.best_other == "fixed:n0"
    assert one.advantage.mean == pytest.approx(1.0)
    assert one.advantage.half_width == pytest.approx(0.0)
    assert (one.distance, one.slackfit_distance) == (15, 30)
    assert one.recovered == pytest.approx(0.5)
    assert one.misses_recovered == pytest.approx(1 - 25 / 40)
    assert not verdict.passes


def test_a_cell_is_lost_only_if_the_whole_interval_is_below() -> None:
    lost = judge(fake_runs([70, 80], [60, 60], [70 + 2 * TOLERANCE, 80 + 2 * TOLERANCE]))
    unsure = judge(fake_runs([70, 80], [60, 60], [71, 79]))
    assert (lost.lost, unsure.lost) == (1, 0)
