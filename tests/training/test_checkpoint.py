from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor, nn

from superserve.errors import CheckpointError
from superserve.training.checkpoint import load_checkpoint, optimizer_tensors, restore_optimizer, save_checkpoint


class State(msgspec.Struct, forbid_unknown_fields=True):
    step: int


class Other(msgspec.Struct, forbid_unknown_fields=True):
    epoch: int


def test_tensors_and_state_come_back(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(3, 2).t(), "b": torch.tensor(7, dtype=torch.int64)}
    save_checkpoint(tmp_path / "deep" / "file", tensors, State(4))
    found, state = load_checkpoint(tmp_path / "deep" / "file", State)
    assert state == State(4)
    assert found.keys() == tensors.keys()
    assert all(
        torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in tensors.items()
    )


def test_replaces_the_last_one_and_leaves_nothing_else(tmp_path: Path) -> None:
    for step in (1, 2):
        save_checkpoint(tmp_path / "file", {"a": torch.ones(step)}, State(step))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert load_checkpoint(tmp_path / "file", State)[1].step == 2


@pytest.mark.parametrize("content", [b"", b"pickle?", None])
def test_what_is_no_checkpoint_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "file"
    if content is None:
        save_checkpoint(path, {}, Other(1))
    else:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=str(path)):
        load_checkpoint(path, State)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_a_restored_optimiser_steps_as_the_original_would(kind: str) -> None:
    def optimizer(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        groups: list[dict[str, Any]] = [{"params": parameters[:1]}, {"params": parameters[1:], "weight_decay": 0.1}]
        if kind == "sgd":
            return torch.optim.SGD(groups, lr=0.1, momentum=0.9)
        return torch.optim.AdamW(groups, lr=0.1)

    def step(optimiser: torch.optim.Optimizer, parameters: list[nn.Parameter], number: int) -> None:
        for parameter in parameters:
            parameter.grad = torch.full_like(parameter, float(number))
        optimiser.step()

    parameters = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))]
    first = optimizer(parameters)
    step(first, parameters, 1)
    kept: dict[str, Tensor] = {name: tensor.clone() for name, tensor in optimizer_tensors(first).items()}
    twins = [nn.Parameter(parameter.detach().clone()) for parameter in parameters]
    second = optimizer(twins)
    restore_optimizer(second, kept)
    step(first, parameters, 2)
    step(second, twins, 2)
    assert all(torch.equal(one, twin) for one, twin in zip(parameters, twins, strict=True))
