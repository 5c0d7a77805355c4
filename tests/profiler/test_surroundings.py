"""What `/proc` tells, as a folder of files that a test writes."""

import os
from pathlib import Path

import pytest

from superserve.clock import NS_PER_S, ManualClock
from superserve.conditions import Conditions
from superserve.profiler.surroundings import Surroundings

TICK_NS = NS_PER_S // os.sysconf("SC_CLK_TCK")
WORKER, CLIENT = 100, 101


class Machine:
    """Four cores, of which 0 and 2 are measured on, and our three processes."""

    def __init__(self, proc: Path) -> None:
        self.proc = proc
        self.clock = ManualClock()
        self.used = [0] * 4
        self.stolen = [0] * 4
        self.ours = dict.fromkeys([os.getpid(), WORKER, CLIENT], 0)
        self.waited_ns = 0

    def write(self) -> None:
        """Half of a core's time is in user mode, a quarter each nice and in system mode."""
        lines = ["cpu 1 2 3 4 5 6 7 8 9 10"]
        for core, (used, stolen) in enumerate(zip(self.used, self.stolen, strict=True)):
            lines.append(f"cpu{core} {used // 2} {used // 4} {used // 4} 1000 7 3 900 {stolen} 0 0")
        (self.proc / "stat").write_text("\n".join([*lines, "intr 5", ""]))
        for pid, ticks in self.ours.items():
            folder = self.proc / str(pid)
            folder.mkdir(exist_ok=True)
            (folder / "stat").write_text(f"{pid} (a ) b) S {' '.join(['0'] * 10)} {ticks // 2} {ticks - ticks // 2} 0")
            (folder / "schedstat").write_text(f"777 {self.waited_ns} 5\n")

    def watch(self) -> Surroundings:
        self.write()
        return Surroundings(self.clock, [0, 2], WORKER, [CLIENT], proc=self.proc)


def test_shares_are_those_of_the_two_cores_and_of_the_time_since(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.used, machine.stolen, machine.waited_ns = [4000, 8000, 4000, 0], [50, 60, 70, 80], 12345
    watch = machine.watch()
    machine.clock.advance(1000 * TICK_NS)
    machine.waited_ns += 100 * TICK_NS
    machine.used = [4000 + 800, 8000 + 1000, 4000 + 1000, 0]
    machine.stolen = [50 + 100, 60 + 900, 70, 80]
    machine.ours = {os.getpid(): 300, WORKER: 800, CLIENT: 100}
    machine.write()
    expected = Conditions(worker_waited=0.1, stolen=0.05, others=0.3, spread=0.2)
    assert watch.conditions(spread=0.2) == expected


@pytest.mark.parametrize("missing", ["stat", f"{WORKER}/stat", f"{WORKER}/schedstat"])
def test_what_the_kernel_does_not_tell_is_unknown(tmp_path: Path, missing: str) -> None:
    machine = Machine(tmp_path)
    watch = machine.watch()
    machine.clock.advance(1000)
    (tmp_path / missing).unlink()
    found = watch.conditions(spread=None)
    assert (found.others is None) == (missing != f"{WORKER}/schedstat")
    assert (found.worker_waited is None) == (missing == f"{WORKER}/schedstat")
    assert (found.stolen is None) == (missing == "stat")


def test_a_kernel_that_says_something_else_is_not_believed(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    watch = machine.watch()
    (tmp_path / "stat").write_text("cpu0 what is\ncpu2 this\n")
    (tmp_path / str(WORKER) / "schedstat").write_text("\n")
    assert watch.conditions(spread=None) == Conditions()


def test_a_worker_of_another_machine_has_no_conditions(tmp_path: Path) -> None:
    assert Surroundings(ManualClock(), [0], None, proc=tmp_path).conditions(spread=0.1) == Conditions(spread=0.1)
