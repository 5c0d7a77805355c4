"""What becomes resident in a worker is mapped beside its batches; what goes is gone before the next one."""

from collections.abc import Sequence
from threading import Event, current_thread, main_thread
from typing import Any

import numpy as np

from superserve.serving.residency.mapping import SubnetMapping


class OneCopy:
    """An engine that has nothing resident."""

    name, dtype, subnet_ids = "eager", "float32", ("a", "b")

    def actuate(self, subnet: int) -> None:
        """Nothing is to be set."""

    def run(self, subnet: int, inputs: Sequence[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:  # noqa: ARG002
        return [*inputs]


class Held(OneCopy):
    """An engine that takes until a test lets it go to map what comes; subnet 3 cannot be mapped."""

    def __init__(self) -> None:
        self.resident: tuple[int, ...] = ()
        self.calls: list[tuple[tuple[int, ...], bool]] = []
        """What was to be resident, and whether the thread that runs batches was asked."""
        self.go = Event()

    def reside(self, subnets: Sequence[int]) -> tuple[int, ...]:
        self.calls.append((tuple(subnets), current_thread() is main_thread()))
        if not {*subnets} <= {*self.resident}:
            assert self.go.wait(10)
        self.resident = tuple(subnet for subnet in subnets if subnet != 3)
        return self.resident


def test_batches_go_on_while_a_subnet_is_mapped() -> None:
    engine, told = Held(), list[tuple[int, ...]]()
    mapping = SubnetMapping(engine)
    mapping.beside_batches([0, 3], told.append)
    assert told == []  # and here a batch could run
    engine.go.set()
    mapping.wait()
    assert told == [(0,)]
    assert engine.calls == [((0, 3), False)]


def test_what_goes_is_gone_at_once_and_only_then_the_rest_comes() -> None:
    engine, told = Held(), list[tuple[int, ...]]()
    mapping = SubnetMapping(engine)
    engine.go.set()
    assert mapping.at_once([0, 1]) == (0, 1)
    engine.go.clear()
    mapping.beside_batches([1, 2], told.append)
    assert (engine.calls[1], engine.resident) == (((1,), True), (1,))
    engine.go.set()
    mapping.beside_batches([2], told.append)
    assert told == [(1, 2), (2,)]
    assert engine.calls[2:] == [((1, 2), False), ((2,), True)]


def test_what_is_resident_already_is_told_without_asking() -> None:
    engine, told = Held(), list[tuple[int, ...]]()
    mapping = SubnetMapping(engine)
    engine.go.set()
    mapping.at_once([0, 1])
    mapping.beside_batches([0, 1], told.append)
    assert told == [(0, 1)]
    assert len(engine.calls) == 1


def test_an_engine_on_one_copy_has_nothing_resident() -> None:
    told: list[tuple[int, ...]] = []
    mapping = SubnetMapping(OneCopy())
    assert mapping.at_once([0]) == ()
    mapping.beside_batches([0], told.append)
    assert told == [()]
