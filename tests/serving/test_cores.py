"""Who runs where."""

import os

import pytest

from superserve.errors import ConfigError
from superserve.serving.cores import CorePlan, available_cores, pinned, plan_cores


@pytest.mark.parametrize(
    ("cores", "workers", "plan"),
    [
        ((0, 1), None, CorePlan(0, (1,))),
        ((2, 5, 7, 9), None, CorePlan(2, (5, 7, 9))),
        ((2, 5, 7, 9), 2, CorePlan(2, (5, 7))),
        ((0, 1, 2), 5, CorePlan(0, (1, 2, 1, 2, 1))),
        ((0, 1), 8, CorePlan(0, (1,) * 8)),
        ((3,), None, CorePlan(3, (3,))),
        ((3,), 2, CorePlan(3, (3, 3))),
    ],
)
def test_the_router_keeps_the_first_core_and_workers_take_turns_on_the_others(
    cores: tuple[int, ...], workers: int | None, plan: CorePlan
) -> None:
    assert plan_cores(cores, workers) == plan


def test_shared_cores_are_told() -> None:
    assert not plan_cores((0, 1, 2)).shared
    assert plan_cores((0, 1, 2), 3).shared
    assert plan_cores((0,)).shared


def test_no_workers_is_refused() -> None:
    with pytest.raises(ConfigError, match="workers = 0"):
        plan_cores((0, 1), 0)


def test_pinning_ends_with_the_block() -> None:
    before = os.sched_getaffinity(0)
    core = available_cores()[-1]

    def fail_pinned() -> None:
        with pinned(core):
            assert available_cores() == (core,)
            raise KeyError

    with pytest.raises(KeyError):
        fail_pinned()
    assert os.sched_getaffinity(0) == before
