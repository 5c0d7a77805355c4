from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from superserve.errors import ConfigError
from superserve.experiments.compare import COLUMNS, Comparison, cells, compare, comparison_figure
from superserve.profile import Profile
from superserve.simulator import simulate
from superserve.traces.arrivals import base_plus_gamma
from superserve.traces.trace import Trace

POLICIES = ("slackfit", "maxbatch", "fixed:largest")


@dataclass(frozen=True)
class Bursts:
    cv2: float

    @property
    def name(self) -> str:
        return f"bursts-{self.cv2:g}"

    def trace(self, seed: int) -> Trace:
        return base_plus_gamma(500, 5000, self.cv2, 0.3, np.random.default_rng(seed))


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return compare(
        [Bursts(2), Bursts(8)],
        POLICIES,
        Profile.load("r-profile"),
        workers=8,
        slo_ms=36,
        seeds=3,
        overhead_ms=1,
        processes=1,
    )


def test_rows_stand_in_the_order_asked_for(comparison: Comparison) -> None:
    expected = [(trace, policy, seed) for trace in ("bursts-2", "bursts-8") for policy in POLICIES for seed in range(3)]
    assert [(row.trace, row.policy, row.seed) for row in comparison.rows] == expected
    assert all(row.distance_to_bound is not None and row.distance_to_bound >= 0 for row in comparison.rows)


def test_a_row_is_what_the_simulator_gives(comparison: Comparison) -> None:
    trace = Bursts(8).trace(1)
    log = simulate(trace, Profile.load("r-profile"), policy="maxbatch", workers=8, slo_ms=36, overhead_ms=1, seed=1)
    (row,) = [row for row in comparison.rows if (row.trace, row.policy, row.seed) == ("bursts-8", "maxbatch", 1)]
    assert row.offered == len(trace)
    assert row.mean_serving_accuracy == pytest.approx(float(np.nanmean(log.accuracy)))


def test_lines_average_over_seeds_and_pair_with_the_first_policy(comparison: Comparison) -> None:
    lines = comparison.lines()
    assert [(line.trace, line.policy) for line in lines[:3]] == [("bursts-2", policy) for policy in POLICIES]
    goodput = [row.goodput_weighted_accuracy for row in comparison.rows]
    assert lines[0].goodput.mean == pytest.approx(np.mean(goodput[:3]))
    assert lines[0].difference is None
    assert lines[2].difference is not None
    assert lines[2].difference.mean == pytest.approx(np.mean(goodput[6:9]) - np.mean(goodput[:3]))
    assert all(len(cells(line)) == len(COLUMNS) for line in lines)


def test_figure_has_a_panel_per_trace_and_a_mark_per_policy(comparison: Comparison) -> None:
    figure = comparison_figure(comparison, title="t")
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["bursts-2", "bursts-8"]
    assert [len(ax.get_lines()) for ax in figure.axes] == [3, 3]


def test_two_processes_give_the_same_rows_from_files(tmp_path: Path) -> None:
    file = tmp_path / "recorded.npz"
    Bursts(4).trace(0).save(file)
    seen: list[tuple[int, int]] = []
    rows = [
        compare(
            [file],
            ("slackfit", "maxacc"),
            Profile.load("r-profile"),
            workers=8,
            slo_ms=36,
            seeds=1,
            processes=processes,
            on_progress=lambda done, total, _: seen.append((done, total)),
        ).rows
        for processes in (1, 2)
    ]
    assert rows[0] == rows[1]
    assert [row.trace for row in rows[0]] == ["recorded", "recorded"]
    assert seen == [(1, 2), (2, 2)] * 2


@pytest.mark.parametrize(
    ("traces", "policies", "seeds", "message"),
    [
        ([], POLICIES, 1, "traces: at least one"),
        ([Bursts(2)], (), 1, "policies: at least one"),
        ([Bursts(2)], ("slackfit", "slackfit"), 1, "policies: each may be given once"),
        ([Bursts(2)], ("slackfit",), 0, "seeds = 0"),
        ([Bursts(2)], ("nonsense",), 1, "nonsense"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    traces: list[Bursts], policies: tuple[str, ...], seeds: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        compare(traces, policies, Profile.load("r-profile"), workers=1, slo_ms=36, seeds=seeds)
