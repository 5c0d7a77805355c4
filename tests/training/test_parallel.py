"""Two real processes that train together."""

from multiprocessing import get_context
from pathlib import Path

import msgspec
import pytest
import torch

from superserve.errors import WorkerError
from superserve.training.parallel import Alone, Group, processes
from superserve.training.trainer import CHECKPOINT_FILE, train
from support.training import PLAN, tiny_job, train_until_killed

TWO = msgspec.structs.replace(PLAN, processes=2)


def test_one_process_is_this_one() -> None:
    with processes(1, fail, None) as group:
        assert isinstance(group, Alone)
        tensor = torch.tensor([3.0])
        group.sum([tensor])
        assert tensor.item() == 3


def add(job: float, group: Group) -> None:
    """The other side of the next test."""
    group.sum([torch.full((2, 3), job), torch.tensor([float(group.rank)])])


def fail(_job: object, _group: Group) -> None:
    """Lose a process."""
    raise SystemExit(7)


@pytest.mark.integration
def test_sums_over_processes() -> None:
    with processes(2, add, 2.0) as group:
        assert (group.rank, group.size) == (0, 2)
        tensors = [torch.ones(2, 3), torch.tensor([0.0])]
        group.sum(tensors)
    assert torch.equal(tensors[0], torch.full((2, 3), 3.0))
    assert tensors[1].item() == 1


@pytest.mark.integration
def test_a_lost_process_ends_the_run() -> None:
    with pytest.raises(WorkerError, match="training process"), processes(2, fail, None) as group:
        group.sum([torch.ones(1)])


@pytest.mark.integration
def test_two_processes_killed_and_resumed_train_as_if_never_killed(tmp_path: Path) -> None:
    """By SIGKILL, between two checkpoints."""
    process = get_context("spawn").Process(target=train_until_killed, args=(tmp_path, TWO, 5))
    process.start()
    process.join()
    assert process.exitcode == -9
    assert (tmp_path / CHECKPOINT_FILE).exists()
    resumed = train(tiny_job(tmp_path, TWO), resume=True)
    whole = train(tiny_job(plan=TWO))
    assert [record.loss for record in resumed.history] == [record.loss for record in whole.history]
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(tensor, resumed.network.state_dict()[name])
