"""Packing before serving: what cannot be packed is left to the engine behind, and said."""

import logging
from pathlib import Path

import pytest

from superserve.engine import PACKED, EngineChoice
from superserve.errors import ModelFolderError
from superserve.model_folder import ModelFolder
from superserve.serving.residency import pack_ahead
from superserve.serving.residency.pack_task import PackTask
from superserve.supernet.packed_store import PackRecord

CHOICE = EngineChoice("cpu", PACKED, "bfloat16", fallback="eager")


@pytest.fixture
def digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelFolder:
    """A model of which nothing is packed."""
    monkeypatch.setenv("SUPERSERVE_CACHE", str(tmp_path))
    return ModelFolder.resolve("digits")


def refuse(monkeypatch: pytest.MonkeyPatch, *subnets: int) -> None:
    """Have no process pack anything, and these subnets refused."""

    def packed(task: PackTask) -> PackRecord:
        if task.subnet in subnets:
            raise ModelFolderError("it loses 0.30 points")
        return PackRecord(
            subnet=f"s{task.subnet}", nbytes=1, seconds=0.5, behind="eager", batches=(1,), ratios=(0.5,), sha256={}
        )

    monkeypatch.setattr(pack_ahead, "_packed", packed)


def test_what_is_refused_does_not_keep_others_from_being_packed(
    digits: ModelFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refuse(monkeypatch, 0, 2)
    ahead = pack_ahead.pack_model(digits, CHOICE)
    assert [record.subnet for record in ahead.records.values()] == ["s1", "s3", "s4", "s5"]
    assert ahead.refused == dict.fromkeys(("s0", "s2"), "it loses 0.30 points")
    with caplog.at_level(logging.WARNING):
        assert pack_ahead.packed_subnets(digits, CHOICE) == (1, 3, 4, 5)
    assert "subnet s0 is not packed and runs on eager: it loses 0.30 points" in caplog.text


def test_a_model_of_which_nothing_can_be_packed_is_refused_with_the_reason(
    digits: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, *range(6))
    with pytest.raises(ModelFolderError, match=r"no subnet can be packed: it loses 0\.30 points: serve with .* eager"):
        pack_ahead.packed_subnets(digits, CHOICE)


def test_no_other_engine_has_anything_packed(digits: ModelFolder) -> None:
    assert pack_ahead.packed_subnets(digits, CHOICE.behind) == ()
