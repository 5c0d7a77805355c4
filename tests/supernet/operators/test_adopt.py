"""Layers of somebody's model become operators where they stand."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from superserve.errors import ConfigError
from superserve.supernet.operators import OPERATORS, adopt, obstacle

LAYERS: list[nn.Module] = [
    nn.Conv2d(4, 4, 3),
    nn.Linear(4, 4),
    nn.Embedding(4, 4),
    nn.LayerNorm(4),
    nn.BatchNorm1d(4),
    nn.BatchNorm2d(4),
    nn.Sequential(nn.ReLU()),
]


def test_every_operator_is_tried_here() -> None:
    assert {type(layer) for layer in LAYERS} == set(OPERATORS)


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_nothing_but_the_class_changes(layer: nn.Module) -> None:
    layer = copy.deepcopy(layer)
    kind, names, parameters = type(layer), list(layer.state_dict()), list(layer.parameters())
    calls: list[nn.Module] = []
    layer.register_forward_hook(lambda module, _arguments, _output: calls.append(module))
    adopt(layer)
    assert type(layer) is OPERATORS[kind]
    assert isinstance(layer, kind)
    assert list(layer.state_dict()) == names
    assert all(ours is theirs for ours, theirs in zip(layer.parameters(), parameters, strict=True))
    if isinstance(layer, nn.Sequential):
        layer.slot.value = layer.bind((0,))  # type: ignore[operator, union-attr]
        layer(torch.zeros(1, 4))
        assert calls == [layer]


def test_layers_of_one_model_have_slots_of_their_own() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    for layer in model:
        adopt(layer)
    assert model[0].slot is not model[1].slot


class OwnLinear(nn.Linear):
    """Somebody's subclass."""


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), "padding mode 'reflect'"),
        (nn.LayerNorm((4, 4)), "2 dimensions"),
        (nn.Embedding(4, 4, max_norm=1.0), "max_norm"),
        (nn.Conv1d(4, 4, 3), "no operator for Conv1d"),
        (OwnLinear(4, 4), "no operator for OwnLinear"),
        (weight_norm(nn.Linear(4, 4)), "no operator for ParametrizedLinear"),
    ],
)
def test_what_an_operator_would_change_is_refused(layer: nn.Module, reason: str) -> None:
    kind = type(layer)
    with pytest.raises(ConfigError, match=reason):
        adopt(layer)
    assert type(layer) is kind


def test_computed_weights_are_refused() -> None:
    layer = nn.Linear(4, 4)
    weight = layer.weight.detach()
    del layer.weight
    layer.weight = weight  # as old-style weight normalisation does
    assert "computed" in str(obstacle(layer))
