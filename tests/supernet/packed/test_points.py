"""Packed subnets that lose accuracy: not kept when that is seen at packing, not used when it is seen later."""

import logging
from pathlib import Path

import pytest

from superserve.errors import ModelFolderError
from superserve.model_folder import ModelFolder
from superserve.supernet.hub import save_supernet
from superserve.supernet.packed import build
from superserve.supernet.packed.build import build_packed
from superserve.supernet.packed_store import PackRecord, find_pack, hashes, pack_path, write_record
from superserve.supernet.right_answers import REFERENCE, RightAnswers, Runs, keep_answers, kept_answers
from support.guesses import Guess, guess_examples
from support.supernets import TINY, small_supernet

# torch's tracer warns about parts of torch.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

PACKED = Runs("packed", "float32")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelFolder:
    monkeypatch.setenv("SUPERSERVE_CACHE", str(tmp_path / "cache"))
    examples = guess_examples(100, hard=2)
    return save_supernet(small_supernet(2, TINY), tmp_path / "tiny", test=(examples.inputs, examples.labels))


def test_one_that_loses_points_is_not_kept(
    folder: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "ModuleEngine", lambda *_: Guess("packed", errs=[1]))
    monkeypatch.setattr(build, "EagerEngine", lambda _: Guess())
    monkeypatch.setattr(build, "check_subnet", lambda *_: 0.0)
    with pytest.raises(ModelFolderError, match=r"engine packed \(float32\) loses .*: s1 2\.00 points"):
        build_packed(folder, 1, "float32", tmp_path / "bad")
    assert not (tmp_path / "bad").exists()


def test_one_that_was_found_to_lose_points_is_ignored(folder: ModelFolder, caplog: pytest.LogCaptureFixture) -> None:
    """As `superserve evaluate` finds out on other data."""
    path = build_packed(folder, 0, "float32", pack_path(folder, "float32", 0)).path
    for private in (path.parent, path.parent.parent, path.parent.parent.parent):
        private.chmod(0o700)
    (counted,) = kept_answers(folder, PACKED)
    record = PackRecord(
        subnet=counted.subnet,
        nbytes=(path / "weights.bin").stat().st_size,
        seconds=1.0,
        behind="eager",
        batches=(1,),
        ratios=(0.5,),
        sha256=hashes(path),
    )
    write_record(path, record)
    assert find_pack(folder, "float32", 0, "eager") is not None
    for runs, right in ((REFERENCE, 900), (PACKED, 890)):
        keep_answers(folder, runs, [RightAnswers(subnet=counted.subnet, examples="more", n=1000, right=right)])
    with caplog.at_level(logging.WARNING):
        assert find_pack(folder, "float32", 0, "eager") is None
    assert "s0 1.00 points (10 of 1000 examples)" in caplog.text
