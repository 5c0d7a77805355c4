"""From folder to folder, on the tiny network."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from superserve.errors import ConfigError
from superserve.evaluate import evaluate
from superserve.model_folder import ModelFolder, TensorSpec
from superserve.supernet.engine import EagerEngine
from superserve.training import searching
from superserve.training.card import Making, write_card
from superserve.training.data import Parts
from superserve.training.front import Candidate, pareto
from superserve.training.journal import Journal
from superserve.training.progress import Progress
from superserve.training.publish import Measurer, choose, publish
from superserve.training.search import search
from superserve.training.searching import FIGURE_FILE, FOLDER, JOURNAL_FILE, SearchOptions, SearchResult, search_model
from superserve.training.trainer import train
from support.training import PLAN, by_flops, coloured, model_config, tiny_job

PARTS = Parts(coloured(34, seed=1), coloured(60, seed=2), coloured(50, seed=3))
COST = by_flops(TensorSpec("image", "UINT8", (-1, 8, 8, 3)))


def making() -> Making:
    return Making(
        command="make it",
        plan=PLAN,
        history=(),
        licence="mit",
        data="colours",
        limits=("toy",),
        machine="here",
        search="",
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    """A model whose front is that of its uniform subnets."""
    network = train(tiny_job(plan=msgspec.structs.replace(PLAN, epochs=4))).network
    measurer = Measurer(network, model_config(), PARTS.train, COST)
    chosen = choose(measurer, list(network.space.uniform()), PARTS.validate, 4, lambda _step: None)
    folder = publish(measurer, chosen, PARTS, tmp_path_factory.mktemp("trained"), lambda _step: None)
    write_card(folder, making(), [[1.0] * 5] * len(chosen))
    return folder


def test_writes_a_folder_with_the_front_found(trained: ModelFolder, tmp_path: Path) -> None:
    seen: list[Progress] = []
    options = SearchOptions(out=tmp_path / "out", budget=200, subnets=5)
    result = search_model(trained, PARTS, options, seen.append, cost=COST)
    assert (result.measured, result.space) == (96, 96)
    folder = ModelFolder(options.out)
    assert folder.weights_hash == trained.weights_hash
    assert [record.spec for record in folder.front.subnets] == [one.spec for one in result.served]
    rows = evaluate(EagerEngine.load(folder), PARTS.test.inputs, PARTS.test.labels)
    assert [row.accuracy for row in rows] == pytest.approx([r.test_accuracy for r in folder.front.subnets], abs=0.01)

    kept = Journal(options.out / FOLDER / JOURNAL_FILE, result.conditions).candidates
    assert tuple(pareto(kept)) == result.front
    assert set(result.served) <= set(result.front)
    assert (options.out / FOLDER / FIGURE_FILE).read_bytes().startswith(b"\x89PNG")
    stored = msgspec.json.decode((options.out / FOLDER / "result.json").read_bytes(), type=SearchResult)
    assert stored == result
    assert [one.name for one in result.properties] == ["P1", "P2", "P3"]
    card = (options.out / "README.md").read_text()
    assert "96 different subnets; the front is that of all of them" in card
    assert "make it" in card
    assert seen[-1].phase == "test"


def test_again_measures_nothing(trained: ModelFolder, tmp_path: Path) -> None:
    options = SearchOptions(out=tmp_path, budget=200)
    first = search_model(trained, PARTS, options, cost=COST)
    seen: list[Progress] = []
    again = search_model(trained, PARTS, options, seen.append, cost=COST)
    assert again.front == first.front
    assert {step.phase for step in seen} == {"test"}


def test_does_not_overwrite_the_model_searched(trained: ModelFolder) -> None:
    with pytest.raises(ConfigError, match="--out"):
        search_model(trained, PARTS, SearchOptions(out=trained.path), cost=COST)


def test_other_validation_images_are_other_conditions(trained: ModelFolder, tmp_path: Path) -> None:
    options = SearchOptions(out=tmp_path, budget=200)
    search_model(trained, PARTS, options, cost=COST)
    with pytest.raises(ConfigError, match="other conditions"):
        search_model(trained, PARTS._replace(validate=coloured(61, seed=2)), options, cost=COST)


def test_a_model_without_a_card_gets_none(trained: ModelFolder, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for path in trained.path.iterdir():
        if path.name not in {"README.md", "making.json"}:
            (bare / path.name).write_bytes(path.read_bytes())
    search_model(ModelFolder(bare), PARTS, SearchOptions(out=tmp_path / "out", budget=200), cost=COST)
    assert not (tmp_path / "out" / "README.md").exists()


def test_calibration_takes_no_more_than_it_is_given(trained: ModelFolder, tmp_path: Path) -> None:
    options = SearchOptions(out=tmp_path, budget=200, calibration=10)
    assert search_model(trained, PARTS, options, cost=COST).conditions.calibration_images == 10
    assert len(np.unique(PARTS.train.head(10).labels)) > 1


@pytest.mark.parametrize("levers", [True, False])
def test_the_card_says_how_subnets_were_chosen(trained: ModelFolder, tmp_path: Path, *, levers: bool) -> None:
    """The option reaches the search."""
    seen: list[bool] = []

    def spied(*arguments: Any, levers: bool, **options: Any) -> tuple[Candidate, ...]:
        seen.append(levers)
        return search(*arguments, levers=levers, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(searching, "search", spied)
        search_model(trained, PARTS, SearchOptions(out=tmp_path, budget=2, levers=levers), cost=COST)
    assert seen == [levers]
    card = (tmp_path / "README.md").read_text()
    assert "2 of them, chosen by NSGA-II" in card
    assert ("steps along levers that pay" in card) == levers
