from pathlib import Path

import msgspec
import numpy as np
import pytest

import engine_headline
from headline import FIGURE, Cell, Measured, summary, write_page
from headline_loads import nearest_subnet
from peers.traces import PeerCell, PeerRun
from superserve.metrics import ResultRow, RunLog, summarise
from superserve.profile import Profile


def row(attainment: float, accuracy: float) -> ResultRow:
    """The result of a run."""
    empty = summarise(RunLog.empty(np.zeros(1, np.int64)), policy="any", trace="azure", seed=0, workers=1, slo_ms=36.0)
    return msgspec.structs.replace(empty, slo_attainment=attainment, mean_serving_accuracy=accuracy)


def contender(policy: str, attainment: float, accuracy: float, *, late: bool = False) -> Measured:
    """A contender whose simulation went a tenth worse."""
    return Measured(
        policy=policy,
        late=late,
        live=row(attainment, accuracy),
        simulated=row(0.9 * attainment, accuracy - 1),
        p99_lateness_ms=0.1,
        void=(),
    )


def cell(ours: float = 0.999) -> Cell:
    """A model under a trace."""
    return Cell(
        model="digits",
        trace="azure",
        seconds=20.0,
        rate=300.0,
        slo_ms=36.0,
        contenders=(
            contender("drainfit", ours, 95.0),
            contender("fixed:s0", 1.0, 90.0),
            contender("fixed:s3", 0.5, 95.1),
            contender("fixed:s3", 0.1, 95.1, late=True),
        ),
    )


def test_gain_and_ratios_are_those_of_live_and_simulated_runs() -> None:
    """Each side by side with its own kind."""
    assert cell().gain == pytest.approx((5.0, 5.0))
    assert cell().ratio(late=False) == pytest.approx((1.998, 1.998))
    assert cell().ratio(late=True) == pytest.approx((9.99, 9.99))


def test_unequal_attainment_is_said() -> None:
    """A gain in accuracy that was paid for with deadlines is none."""
    fine, paid = (list(summary([cell(attained)]))[-1] for attained in (0.999, 0.98))
    assert "| yes: 0.9990, 1.0000 |" in fine
    assert "| **no**: 0.9800, 1.0000 |" in paid


def test_the_nearest_subnet_is_nearest_in_accuracy() -> None:
    """From either side."""
    profile = Profile.load("r-profile")
    first, second = profile.subnets[:2]
    assert nearest_subnet(profile, first.accuracy - 1) == first.id
    assert nearest_subnet(profile, second.accuracy - 0.01) == second.id


def test_the_page_has_every_run_and_the_figure(tmp_path: Path) -> None:
    """A line per contender, and a picture."""
    runs = (
        PeerRun(server="SuperServe", subnet="drainfit", in_time=0.998, accuracy=95.0, p99_ms=20.0, late_ms=0.1),
        PeerRun(server="Other", subnet="s3", in_time=0.41, accuracy=95.1, p99_ms=900.0, late_ms=30.0),
    )
    beside = PeerCell(model="digits", trace="azure", seconds=15.0, rate=300.0, slo_ms=36.0, runs=runs)
    write_page([cell()], [beside], tmp_path)
    page = (tmp_path / "results.md").read_text()
    assert "digits: 300 requests/s, SLO 36.0 ms." in page
    assert "| digits | azure | fixed:s3, late | 0.1000 | 0.0900 |" in page
    assert "| digits | azure | 300 | 36.0 | SuperServe | drainfit | 0.9980 | 95.00 | 20.0 | yes |" in page
    assert "| Other | s3 | 0.4100 | 95.10 | 900.0 | void |" in page
    assert (tmp_path / "images" / FIGURE).read_bytes().startswith(b"\x89PNG")
    assert len(msgspec.json.decode((tmp_path / "results.json").read_bytes())["rows"]) == 1
    write_page([cell()], [], tmp_path)
    assert "other servers" not in (tmp_path / "results.md").read_text()


def test_engines_are_compared_by_medians_over_rounds() -> None:
    """With the range beside them, in the order in which they were asked for."""
    rounds = {
        "eager": [contender("drainfit", attained, 95.0) for attained in (0.9, 0.99, 0.98)],
        "packed": [contender("drainfit", 1.0, 96.0)],
    }
    compared = engine_headline.Cell(model="digits", trace="azure", rate=300.0, slo_ms=36.0, rounds=rounds)
    eager, packed = list(engine_headline.table([compared]))[2:]
    assert "| eager | 0.9800 (0.9000-0.9900) | 95.00 (95.00-95.00) | - |" in eager
    assert "| packed | 1.0000 (1.0000-1.0000) |" in packed
