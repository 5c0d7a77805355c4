"""The emulated engine on a clock of the test's own."""

import numpy as np
import pytest

from superserve.engine import Engine
from superserve.errors import ProfileError
from superserve.profile import Profile
from superserve.serving import emulated
from superserve.serving.emulated import DEADLY, SLOW_NS, SLOWING, EmulatedEngine, create_engine, emulated_workers
from superserve.serving.ipc import Setup
from support.serving import MODEL

PROFILE = Profile.load("r-profile")


class Machine:
    """Time that moves only while something sleeps, and then by ``late_ns`` too much."""

    def __init__(self, late_ns: int) -> None:
        self.now_ns = 10**15
        self.late_ns = late_ns

    def sleep_until_ns(self, when_ns: int) -> None:
        self.now_ns = max(self.now_ns, when_ns + self.late_ns)

    def monotonic_ns(self) -> int:
        return self.now_ns


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    found = Machine(late_ns=70_000)
    monkeypatch.setattr(emulated, "sleep_until_ns", found.sleep_until_ns)
    monkeypatch.setattr(emulated, "monotonic_ns", found.monotonic_ns)
    return found


def took_ns(machine: Machine, engine: Engine, subnet: int, rows: int) -> int:
    began_ns = machine.now_ns
    engine.run(subnet, [np.zeros((rows, 2), np.uint8)])
    return machine.now_ns - began_ns


def test_a_batch_takes_its_profiled_time_however_late_sleeps_end(machine: Machine) -> None:
    engine = create_engine(Setup(0, emulated_workers(MODEL, ["r-profile"], seed=0)))
    assert isinstance(engine, EmulatedEngine)
    for subnet, rows, wanted_ns in ((0, 1, 1_410_000), (5, 16, 30_700_000), (2, 3, 4_015_000)):
        assert abs(took_ns(machine, engine, subnet, rows) - wanted_ns) <= 2_000


def test_the_estimate_follows_the_machine(machine: Machine) -> None:
    engine = EmulatedEngine(PROFILE, np.random.default_rng(0), [], lead_ns=0)
    assert took_ns(machine, engine, 0, 1) == 1_410_000 + 70_000
    for _ in range(100):
        took_ns(machine, engine, 0, 1)
    assert abs(took_ns(machine, engine, 0, 1) - 1_410_000) <= 1_000
    machine.late_ns = 20_000
    for _ in range(100):
        took_ns(machine, engine, 0, 1)
    assert abs(took_ns(machine, engine, 0, 1) - 1_410_000) <= 1_000


def test_it_answers_zeros_of_the_models_shape(machine: Machine) -> None:
    engine = create_engine(Setup(0, emulated_workers(MODEL, ["r-profile"], seed=0)))
    pixels, factor = engine.run(1, [np.ones((3, 2, 2), np.uint8), np.ones(3, np.float32)])
    assert (pixels.dtype, pixels.shape) == (np.uint8, (3, 2, 2))
    assert (factor.dtype, factor.shape) == (np.float32, (3,))
    assert not pixels.any()
    assert not factor.any()


def test_subnets_and_batch_limit_are_the_profiles() -> None:
    spec = emulated_workers(MODEL, ["r-profile"], seed=0)
    assert spec.max_rows == PROFILE.batches[-1]
    assert spec.warm_batches == ()
    engine = create_engine(Setup(0, spec))
    assert engine.name == "emulated"
    assert engine.subnet_ids == tuple(subnet.id for subnet in PROFILE.subnets)


def test_an_unreadable_profile_is_refused_before_any_worker_starts() -> None:
    with pytest.raises(ProfileError, match=r"no-such\.json"):
        emulated_workers(MODEL, ["no-such.json"], seed=0)


def test_a_worker_is_slow_for_a_while_after_a_slowing_row(machine: Machine) -> None:
    engine = create_engine(Setup(0, emulated_workers(MODEL, ["r-profile"], seed=0)))
    engine.run(0, [np.frombuffer(SLOWING + bytes(4), np.uint8).reshape(1, 20)])
    assert abs(took_ns(machine, engine, 0, 1) - 10 * 1_410_000) <= 2_000
    machine.now_ns += SLOW_NS
    assert abs(took_ns(machine, engine, 0, 1) - 1_410_000) <= 2_000


@pytest.mark.parametrize(
    ("row", "dies"), [(DEADLY + b"rest", True), (DEADLY[:-1] + b"?rest", False), (b"x" * 20, False)]
)
def test_a_worker_dies_of_a_deadly_row(monkeypatch: pytest.MonkeyPatch, row: bytes, dies: bool) -> None:
    engine = EmulatedEngine(PROFILE, np.random.default_rng(0), [], lead_ns=0)
    exits: list[int] = []
    monkeypatch.setattr("os._exit", exits.append)
    engine.run(0, [np.frombuffer(bytes(20) + row, np.uint8).reshape(2, 4, 5)])
    assert bool(exits) is dies
