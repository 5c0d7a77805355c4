from pathlib import Path

import msgspec
import pytest

from paper_scale import AZURE, LOADS, Measured, attained, source_of, table, write_page
from superserve.experiments.reproduction.loads import Azure, Bursty
from superserve.metrics import ResultRow


def row(attainment: float, accuracy: float | None) -> ResultRow:
    return ResultRow(
        policy="drainfit",
        trace="a load",
        seed=0,
        workers=8,
        slo_ms=36.0,
        offered=1000,
        served=round(1000 * attainment),
        late=0,
        expired=0,
        rejected=0,
        cancelled=0,
        failed=0,
        slo_attainment=attainment,
        mean_serving_accuracy=accuracy,
        goodput_weighted_accuracy=70.0,
        measured_accuracy=None,
        p50_ms=10.0,
        p99_ms=30.0,
        mean_batch=8.0,
        emulated=True,
    )


def measured(attainment: float = 0.9995, void: tuple[str, ...] = ()) -> Measured:
    return Measured(
        load=AZURE,
        factor=1.0,
        overhead_planned_us=1500.0,
        overhead_mean_us=800.0,
        live=row(attainment, 78.0),
        simulated=row(1.0, 78.5),
        p99_lateness_ms=0.42,
        router_core_share=0.3,
        generator_cpu_share=0.2,
        void=void,
    )


def test_the_loads_are_those_of_the_experiments() -> None:
    """The Azure load and the four corners of the grid, at the paper's rates."""
    azure = source_of(AZURE, Path("data"), 0.5)
    assert azure == Azure(Path("data"), 6400.0, 60.0)
    corners = {source_of(load, None, 1.0) for load in LOADS if load != AZURE}
    assert corners == {Bursty(1500.0, variant, cv2, 30.0) for variant in (2950.0, 5550.0) for cv2 in (2.0, 8.0)}
    with pytest.raises(SystemExit, match="--data"):
        source_of(AZURE, None, 1.0)


def test_a_load_is_attained_only_in_a_run_that_counts() -> None:
    assert attained(measured())
    assert not attained(measured(0.9989))
    assert not attained(measured(void=("the generator was late",)))


def test_the_page_has_live_beside_simulated_and_the_gain(tmp_path: Path) -> None:
    """Gains are over 73.82 %, the smallest subnet of R-PROFILE."""
    found = [measured(), measured(0.99), measured(void=("the generator was late",))]
    lines = list(table(found))[2:]
    assert lines[0] == "| a load | 0.99950 | 1.00000 | 78.00 | 78.50 | +4.18 | +4.68 | 0.42 ms | 30% | yes |"
    assert lines[1].endswith("| **no** |")
    assert lines[2].endswith("| void: the generator was late |")
    write_page(found, tmp_path, tmp_path)
    assert lines[0] in (tmp_path / "paper-scale.md").read_text()
    kept = msgspec.json.decode((tmp_path / "paper-scale.json").read_bytes(), type=dict[str, list[Measured]])
    assert kept == {"rows": found}
