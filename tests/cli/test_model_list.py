"""``superserve models``: what is packed of the bundled ones here, and of those that a server has."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from superserve.cli import app
from superserve.frontend.dashboard.activity import Activity, ModelCard, SubnetCard
from superserve.serving.residency.report import ResidencyReport, SubnetReport
from superserve.supernet.packed_store import KeptPack
from support.packing import record

REPORT = ResidencyReport(
    subnets=("s0",),
    nbytes=1_200_000,
    budget=3_000_000,
    weights=4_000_000,
    front=(
        SubnetReport(id="s0", state="resident", nbytes=1_200_000, answered=3, reason=None),
        SubnetReport(id="s1", state="refused", nbytes=None, answered=0, reason="cannot be packed: no space left"),
    ),
    packed=1,
    failures=1,
    evictions=0,
    answered=3,
    requests=4,
)


def card(name: str) -> ModelCard:
    return ModelCard(
        name=name,
        task="test",
        dataset="none",
        emulated=False,
        policy="drainfit",
        slo_ms=50.0,
        subnets=[SubnetCard("s0", 70.0), SubnetCard("s1", 71.0)],
        inputs=[],
        outputs=[],
        labels=(),
        white=None,
    )


ACTIVITY = Activity(
    run="1",
    version="9",
    ready=True,
    models=[card("plain"), card("tiny")],
    seconds=[],
    workers=[],
    packed={"tiny": REPORT},
    notable=[],
)

pytestmark = pytest.mark.usefixtures("wide_terminal")


def listed(*arguments: str, file: Path) -> tuple[str, dict[str, Any]]:
    """What is printed, in a wide terminal, and what is written, by name."""
    result = CliRunner().invoke(app, ["models", *arguments, "--json", str(file)])
    assert result.exit_code == 0, result.output
    return result.output, {one["name"]: one for one in json.loads(file.read_bytes())["models"]}


def test_of_a_server_it_lists_what_is_resident_and_what_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = msgspec.json.encode(ACTIVITY)
    monkeypatch.setattr("superserve.cli.model_list.ask", lambda *_, **__: msgspec.json.decode(sent, type=Activity))
    text, rows = listed("--url", "http://here", file=tmp_path / "rows.json")
    assert rows["plain"]["packed"] is None
    assert msgspec.convert(rows["tiny"]["packed"], ResidencyReport) == REPORT
    assert rows["tiny"]["weights_bytes"] == 4_000_000
    for cell in ("4.0 MB", "1.2 MB", "3.0 MB", "75.0%", "resident", "cannot be packed: no space left"):
        assert cell in text


def test_of_bundled_models_it_lists_what_is_packed_on_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = {0: KeptPack(tmp_path, record(0)), 1: KeptPack(tmp_path, record(1, ratio=1.0))}
    monkeypatch.setattr("superserve.supernet.packed_store.find_packs", lambda *_: kept)
    monkeypatch.setenv("SUPERSERVE_CACHE", str(tmp_path))
    text, rows = listed(file=tmp_path / "rows.json")
    first, second, third, *_ = rows["digits"]["packed"]
    assert (first["state"], first["nbytes"], third["state"], third["nbytes"]) == ("packed", 10, "not packed", None)
    assert (second["state"], second["reason"]) == ("refused", "is no faster packed than on engine eager")
    assert "1 of 6, 0.0 MB" in text
