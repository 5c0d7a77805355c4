"""What the benchmark of SubNetAct counts and reports; its measurements are no tests."""

from pathlib import Path
from typing import Any

import pytest

from subnetact.families import request
from subnetact.report import write_page
from subnetact.resnets import RESNETS, parameters
from subnetact.subset import with_subnets
from subnetact.targets import memory_ratio, table, tax
from subnetact.timing import MIN_ROUNDS, interleaved
from superserve.model_folder import ModelFolder
from superserve.supernet.hub import load_supernet


@pytest.mark.parametrize(
    ("name", "count"),
    [("ResNet18", 11_689_512), ("ResNet34", 21_797_672), ("ResNet50", 25_557_032), ("ResNet101", 44_549_160)],
)
def test_resnets_have_the_parameters_of_torchvisions(name: str, count: int) -> None:
    assert parameters(name) == count
    assert name in RESNETS


def test_alternatives_take_turns() -> None:
    calls: list[str] = []
    found = interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, budget_s=0)
    assert calls == ["a", "b"] * (MIN_ROUNDS + 1)
    assert all(spread.min_us <= spread.median_us <= spread.max_us for spread in found.values())


def test_a_subset_of_a_folder_keeps_what_its_subnets_are(tmp_path: Path) -> None:
    digits = ModelFolder.resolve("digits")
    some = with_subnets(digits, [0, 2], tmp_path / "some")
    assert some.front.subnets == (digits.front.subnets[0], digits.front.subnets[2])
    assert set(load_supernet(some).statistics) == {record.id for record in some.front.subnets}


def test_requests_are_of_the_models_tensors() -> None:
    config = ModelFolder.resolve("digits").config
    (image,) = request(config, 3)
    assert (image.shape, image.dtype) == ((3, 8, 8), config.inputs[0].dtype)


def latency_row(alternative: str, batch: int, median_us: float) -> dict[str, Any]:
    return {
        "subnet": "s0", "macs": 1, "batch": batch, "alternative": alternative, "median_us": median_us,
        "min_us": median_us, "max_us": median_us, "rounds": 3,
    }  # fmt: skip


ROWS = [
    latency_row(name, batch, median_us)
    for batch, times in (
        (1, {"actuated eager fp32": 12.0, "actuated compiled fp32": 10.4, "extracted eager fp32": 10.0}),
        (16, {"actuated eager fp32": 22.0, "actuated compiled fp32": 20.0, "extracted eager fp32": 20.0}),
    )
    for name, median_us in (*times.items(), ("extracted compiled fp32", 10.0 * (1 + (batch > 1))))
]
LATENCY = {
    "rows": ROWS,
    "missing": {"openvino": "not installed"},
    "compile_s": {"fp32": 7.0},
    "compiled_subnets": 1,
}
MACHINE = {"cpu": "some", "cores": 2, "torch": "2", "python": "3"}


def test_the_tax_is_the_median_of_the_ratios() -> None:
    assert tax(ROWS, "eager fp32") == pytest.approx((1.2 + 1.1) / 2)
    assert tax(ROWS, "compiled fp32") == pytest.approx((1.04 + 1.0) / 2)


def test_a_page_of_one_part_says_what_is_not_installed(tmp_path: Path) -> None:
    results = {"machine": MACHINE, "latency": {"digits": LATENCY}}
    write_page(results, tmp_path / "subnetact.md")
    page = (tmp_path / "subnetact.md").read_text()
    assert "| s0, 1 | 0.012 | 0.0104 | 0.01 | 0.01 | not installed |" in page
    assert "## Memory" not in page
    assert (tmp_path / "images" / "subnetact.png").stat().st_size > 0


def memory_rows(supernet_mb: float) -> list[dict[str, Any]]:
    used = {"supernet": supernet_mb, "zoo": 100.0, "reloading": 30.0}
    return [{"mode": mode, "workers": 2, "model_mb": mb, "total_mb": mb} for mode, mb in used.items()]


@pytest.mark.parametrize(("supernet_mb", "met"), [(20.0, "yes"), (30.0, "**no**")])
def test_a_target_that_is_missed_says_so(supernet_mb: float, met: str) -> None:
    rows = memory_rows(supernet_mb)
    (line,) = [line for line in table({"memory": {"digits": {"rows": rows}}}) if "two workers" in line]
    assert line.endswith(f"digits {memory_ratio(rows, 2):.2f}x | {met} |")


def test_the_tax_has_a_limit_by_scale() -> None:
    (line,) = [line for line in table({"latency": {"digits": LATENCY}}) if "32x32" in line]
    assert line.endswith("digits 1.020 (eager: digits 1.150) | yes |")


def test_a_batch_counts_where_a_server_runs_it() -> None:
    """Packed or on compiled code, whichever is faster, against the best of the static runtimes."""
    cells = {1: (20.0, 14.0, 10.0, 12.0), 8: (33.0, 44.0, 32.0, 30.0)}
    names = ("packed fp32", "compiled fp32", "onnxruntime fp32", "openvino fp32")
    rows = [
        latency_row(name, batch, us) for batch, times in cells.items() for name, us in zip(names, times, strict=True)
    ]
    lines = [line for line in table({"packed": {"digits": {"rows": rows}}}) if "32x32" in line]
    assert "| digits 1.40 (packed alone: digits 2.00) | yes |" in lines[0]
    assert "| digits 1.10 (packed alone: digits 1.10) | yes |" in lines[1]


def test_with_static_runtimes_the_engine_counts_as_it_is() -> None:
    """Not the best of what was measured, but what the engine chose when it packed."""
    cells = {"packed fp32": 20.0, "packed + runtimes fp32": 16.0, "onnxruntime fp32": 10.0, "openvino fp32": 12.0}
    rows = [latency_row(name, rows, us) for rows in (1, 8) for name, us in {**cells, "compiled fp32": 11.0}.items()]
    (line,) = [line for line in table({"packed": {"digits": {"rows": rows}}}) if "batch 1, 32x32" in line]
    assert "| digits 1.60 (packed alone: digits 2.00) | **no** |" in line
