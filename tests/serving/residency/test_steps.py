"""What is decided step by step, while models go."""

import dataclasses

import pytest

from superserve.clock import ManualClock
from superserve.serving.fake_pool import FakePool
from superserve.serving.residency.packed_model import PackedModel
from superserve.serving.residency.steps import Reside, ResidencySteps
from superserve.serving.router import Router
from support.packing import Packs, packed_model, packed_router


def two_models() -> tuple[ResidencySteps, list[PackedModel], list[Router]]:
    """Each has a packed subnet that is not mapped yet."""
    clock = ManualClock()
    steps = ResidencySteps(clock, None)
    routers = [packed_router(FakePool(), clock, Packs())[0] for _ in range(2)]
    models = [
        dataclasses.replace(packed_model(router, kept=(0,)), number=number) for number, router in enumerate(routers)
    ]
    for model in models:
        steps.add(model)
    return steps, models, routers


def test_a_model_that_goes_while_another_one_is_mapped_is_left_out() -> None:
    steps, (first, _), (_, gone) = two_models()
    change = steps.change()
    assert change is not None
    assert next(change) == Reside(0, frozenset({0}))
    assert steps.remove(gone) == [1]
    with pytest.raises(StopIteration):
        change.send(frozenset({0}))
    assert first.resident == {0}


def test_a_model_that_goes_while_it_is_mapped_is_planned_no_more() -> None:
    """And the next one has its turn."""
    steps, (first, second), (gone, _) = two_models()
    first.plan({1})
    change = steps.change()
    assert change is not None
    assert next(change) == Reside(0, frozenset({0}))
    steps.remove(gone)
    assert change.send(frozenset({0})) == Reside(1, frozenset({0}))
    with pytest.raises(StopIteration):
        change.send(frozenset({0}))
    assert first.resident == {1}
    assert second.resident == {0}
