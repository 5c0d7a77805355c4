from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor

from superserve.errors import CheckpointError, ConfigError
from superserve.supernet.actuator import apply, bind
from superserve.training.card import commands
from superserve.training.parallel import Alone
from superserve.training.trainer import CHECKPOINT_FILE, Plan, Progress, Trained, Trainer, train
from support.training import PLAN, coloured, learning, served, tiny_job


def weights(trained: Trained) -> dict[str, Tensor]:
    return trained.network.state_dict()


def same(one: Trained, other: Trained) -> bool:
    """Equal to the bit, and equal in everything that epochs came to but time."""
    timeless = [
        [msgspec.structs.replace(record, wall_s=0.0, cpu_s=0.0) for record in trained.history]
        for trained in (one, other)
    ]
    mine, others = weights(one), weights(other)
    return timeless[0] == timeless[1] and all(torch.equal(tensor, others[name]) for name, tensor in mine.items())


class KilledError(Exception):
    """Stands for a signal."""


def killed_after(step: int, folder: Path, plan: Plan = PLAN) -> None:
    """Run into an end after a step."""

    def stop(progress: Progress) -> None:
        if progress.step == step:
            raise KilledError

    with pytest.raises(KilledError):
        train(replace(tiny_job(folder), plan=plan), report=stop)


@pytest.fixture(scope="module")
def uninterrupted() -> Trained:
    return train(tiny_job())


def test_weights_are_a_function_of_the_plan(uninterrupted: Trained) -> None:
    assert same(uninterrupted, train(tiny_job()))
    assert not same(uninterrupted, train(tiny_job(plan=msgspec.structs.replace(PLAN, seed=6))))


@pytest.mark.parametrize("step", [1, 4, 5, 6, 7])
def test_a_killed_run_goes_on_as_it_would_have(tmp_path: Path, uninterrupted: Trained, step: int) -> None:
    """Before the first checkpoint, between two, at one, and at the end of an epoch."""
    killed_after(step, tmp_path)
    seen: list[Progress] = []
    assert same(train(tiny_job(tmp_path), resume=True, report=seen.append), uninterrupted)
    last_checkpoint = max(n for n in (0, 3, 4, 6) if n <= step)
    assert [progress.step for progress in seen] == list(range(last_checkpoint + 1, 9))


def test_adamw_resumes_too(tmp_path: Path) -> None:
    plan = msgspec.structs.replace(PLAN, optimizer="adamw", learning_rate=0.01)
    killed_after(5, tmp_path, plan)
    assert same(train(tiny_job(tmp_path, plan), resume=True), train(tiny_job(plan=plan)))


def test_a_finished_run_resumes_to_its_result(tmp_path: Path, uninterrupted: Trained) -> None:
    train(tiny_job(tmp_path))
    seen: list[Progress] = []
    assert same(train(tiny_job(tmp_path), resume=True, report=seen.append), uninterrupted)
    assert not seen


def test_a_finished_run_can_be_extended(tmp_path: Path, uninterrupted: Trained) -> None:
    """And its card will say so: the learning rate fell twice."""
    train(tiny_job(tmp_path))
    plan = msgspec.structs.replace(PLAN, epochs=3)
    longer = train(tiny_job(tmp_path, plan), resume=True)
    typed = "superserve train tiny --data DIR --out DIR --epochs {} --seed 5".format
    assert commands("tiny", plan, longer.history) == f"{typed(2)}\n{typed(3)} --resume"
    assert commands("tiny", PLAN, uninterrupted.history) == typed(2)
    assert [record.epoch for record in longer.history] == [1, 2, 3]
    assert [record.loss for record in longer.history[:2]] == [record.loss for record in uninterrupted.history]


def test_without_resume_a_run_starts_anew(tmp_path: Path, uninterrupted: Trained) -> None:
    train(tiny_job(tmp_path, msgspec.structs.replace(PLAN, seed=9)))
    assert same(train(tiny_job(tmp_path)), uninterrupted)


def test_another_plan_is_not_resumed(tmp_path: Path) -> None:
    killed_after(4, tmp_path)
    with pytest.raises(ConfigError, match="another plan"):
        train(tiny_job(tmp_path, msgspec.structs.replace(PLAN, learning_rate=0.2)), resume=True)


def test_a_broken_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT_FILE).write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    with pytest.raises(CheckpointError, match=CHECKPOINT_FILE):
        train(tiny_job(tmp_path), resume=True)


def test_more_rows_than_images_are_refused() -> None:
    with pytest.raises(ConfigError, match="rows = 64"):
        train(tiny_job(plan=msgspec.structs.replace(PLAN, rows=64)))


def test_impossible_plans_are_refused() -> None:
    for wrong in ({"epochs": 0}, {"processes": 0}, {"rows": 9, "processes": 2}):
        with pytest.raises(ValueError, match="processes"):
            Plan(**({"epochs": 1} | wrong))  # type: ignore[arg-type]


def test_learns_at_every_size() -> None:
    """From a third right to nearly all, by eye for colour alone."""
    trained = train(tiny_job(plan=msgspec.structs.replace(PLAN, epochs=12, learning_rate=0.05)))
    accuracy = trained.history[-1].accuracy
    assert list(accuracy) == ["smallest", "middle", "largest"]
    assert min(accuracy.values()) > 80


def test_watched_accuracies_are_those_of_the_averaged_weights(uninterrupted: Trained) -> None:
    """What the last epoch reports is what the returned network does."""
    network, (_, validate) = uninterrupted.network, learning()
    apply(bind(network, network.space.largest(), None))
    right = network(served(torch.from_numpy(validate.inputs))).argmax(1).numpy() == validate.labels
    assert uninterrupted.history[-1].accuracy["largest"] == pytest.approx(100 * right.mean())


def test_reports_every_step_and_epoch() -> None:
    seen: list[Progress] = []
    trained = train(tiny_job(), report=seen.append)
    assert [(progress.step, progress.steps) for progress in seen] == [(n, 8) for n in range(1, 9)]
    assert [progress.epoch for progress in seen if progress.epoch] == list(trained.history)
    assert seen[-1].left_s == 0
    assert seen[0].left_s > 0
    for record, part in zip(trained.history, (seen[:4], seen[4:]), strict=True):
        assert record.loss == pytest.approx(sum(progress.loss for progress in part) / 4)
        assert record.wall_s > 0


def test_an_epoch_takes_every_image_at_most_once() -> None:
    taken: list[Tensor] = []

    def spy(images: Tensor, generator: torch.Generator) -> Tensor:
        taken.append(images)
        return served(images)

    train(replace(tiny_job(), augment=spy, plan=msgspec.structs.replace(PLAN, epochs=1)))
    rows = torch.cat(taken).flatten(1)
    assert len(torch.unique(rows, dim=0)) == len(rows) == 32
    assert not torch.equal(taken[0], torch.from_numpy(coloured(34, seed=1).inputs[:8]))  # shuffled


class _Share(Alone):
    """One process of two, which hears only itself."""

    def __init__(self, rank: int) -> None:
        self.rank, self.size = rank, 2  # type: ignore[misc]


def test_processes_share_a_step_and_draw_subnets_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    job = replace(tiny_job(), plan=msgspec.structs.replace(PLAN, epochs=1, processes=2))
    taken: list[list[np.ndarray]] = [[], []]
    draws: list[list[float]] = [[], []]
    for rank in (0, 1):

        def spy(images: Tensor, generator: torch.Generator, rank: int = rank) -> Tensor:
            taken[rank].append(images.numpy())
            draws[rank].append(float(torch.rand(1, generator=generator)))
            return served(images)

        Trainer(replace(job, augment=spy), _Share(rank)).run()
    assert [len(images) for images in taken[0] + taken[1]] == [4] * 8
    assert len(np.unique(np.concatenate(taken[0] + taken[1]).reshape(32, -1), axis=0)) == 32
    assert not set(draws[0]) & set(draws[1])
