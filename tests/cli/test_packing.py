"""`superserve pack`: what runs which batches is shown, and what does not is said with its reason."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from superserve.cli import app
from superserve.serving.residency import pack_ahead
from superserve.serving.residency.pack_ahead import PackedAhead
from superserve.supernet.packed_store import PackRecord
from superserve.supernet.runtimes import installed
from superserve.supernet.runtimes.contest import PROGRAM

RECORD = PackRecord(
    subnet="s0",
    nbytes=2_000_000,
    nbytes_each=34_500_000,
    seconds=3.5,
    behind="eager",
    batches=(1, 8, 16),
    ratios=(0.5, 0.8, 1.1),
    runs=("openvino", PROGRAM, PROGRAM),
    runtimes={"openvino": "3"},
    tried={"onnxruntime": "2", "openvino": "3"},
    left={"onnxruntime": "not faster"},
    sha256={},
)


pytestmark = pytest.mark.usefixtures("wide_terminal")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Sequence[str] | None]:
    """The runtimes that subnets are to be tried on, where nothing is packed."""
    found: list[Sequence[str] | None] = []

    def pack_model(*_: object, runtimes: Sequence[str] | None, **__: object) -> PackedAhead:
        found.append(runtimes)
        return PackedAhead({0: RECORD}, {})

    monkeypatch.setenv("SUPERSERVE_CACHE", str(tmp_path))
    monkeypatch.setattr(installed, "version", {"onnx": "1", "onnxruntime": "2", "openvino": "3"}.get)
    monkeypatch.setattr(pack_ahead, "pack_model", pack_model)
    return found


def run(*options: str) -> Any:
    return CliRunner().invoke(app, ["pack", "digits", "--dtype", "float32", *options])


def test_table_and_json_say_what_runs_how_many_rows(asked: list[Sequence[str] | None], tmp_path: Path) -> None:
    result = run("--json", str(tmp_path / "rows.json"))
    assert result.exit_code == 0, result.output
    for words in ("1 openvino, 8 packed, 16 eager", "34.5 MB", "not run on onnxruntime: s0: not faster"):
        assert words in result.output
    (row,) = json.loads((tmp_path / "rows.json").read_bytes())["rows"]
    assert (row["batches"], row["runs"]) == ([1, 8, 16], ["openvino", "packed", "packed"])
    assert asked == [["onnxruntime", "openvino"]]  # all that are installed


@pytest.mark.parametrize(
    ("names", "wanted"),
    [("none", []), ("openvino", ["openvino"]), ("openvino,onnxruntime", ["openvino", "onnxruntime"])],
)
def test_what_is_tried_is_a_matter_of_an_option(
    asked: list[Sequence[str] | None], names: str, wanted: Sequence[str]
) -> None:
    assert run("--runtimes", names).exit_code == 0
    assert asked == [wanted]


def test_a_runtime_that_nobody_knows_is_refused(asked: list[Sequence[str] | None]) -> None:
    assert "runtime 'tensorrt' is not one of" in str(run("--runtimes", "tensorrt").exception)
    assert asked == []
