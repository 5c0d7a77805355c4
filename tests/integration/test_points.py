"""The process that counts right answers before workers start."""

from pathlib import Path

import numpy as np
import pytest

from superserve.engine import EngineChoice
from superserve.errors import ModelFolderError
from superserve.evaluate import evaluate
from superserve.model_folder import TEST_FILE, ModelFolder
from superserve.serving import points_ahead
from superserve.serving.points_ahead import require_points, runs_of
from superserve.supernet.engine import EagerEngine
from superserve.supernet.hub import save_supernet
from superserve.supernet.points import answers_on, labelled_examples
from superserve.supernet.right_answers import REFERENCE
from support.supernets import pixels, small_supernet

pytestmark = pytest.mark.integration

BFLOAT16 = EngineChoice("cpu", "eager", "bfloat16")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelFolder:
    """A model whose largest subnet gets all of its test data right."""
    monkeypatch.setenv("SUPERSERVE_CACHE", str(tmp_path / "cache"))
    bare = save_supernet(small_supernet(), tmp_path / "small")
    images = pixels(200)
    logits = EagerEngine.load(bare).run(2, [images])[0]
    np.savez(bare.path / TEST_FILE, inputs=images, labels=logits.argmax(1))
    return bare


def test_it_counts_what_the_engines_get_right(folder: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """As counted in this process; it tells how far it is, and a second look starts no process."""
    steps: list[tuple[int, int, str]] = []
    monkeypatch.setattr(points_ahead, "refuse_losses", lambda *_: None)  # random weights are sure of little
    for _ in range(2):
        require_points(folder, BFLOAT16, lambda *step: steps.append(step))
    examples = labelled_examples(folder)
    assert examples is not None
    for runs, engine in (
        (REFERENCE, EagerEngine.load(folder)),
        (runs_of(BFLOAT16), EagerEngine.load(folder, "bfloat16")),
    ):
        rows = evaluate(engine, examples.inputs, examples.labels)
        assert [(kept.subnet, kept.right) for kept in answers_on(folder, runs, examples)] == [
            (row.subnet, round(2 * row.accuracy)) for row in rows
        ]
    batches = 3 * -(-200 // folder.config.max_batch_size)
    assert steps == 2 * [(done, batches, "compare accuracy") for done in range(1, batches + 1)]


def test_a_process_that_fails_says_why(folder: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(points_ahead, "_MODULE", "superserve.none")
    with pytest.raises(ModelFolderError, match=r"No module named superserve\.none"):
        require_points(folder, BFLOAT16)
