"""The demo as a whole, on emulated workers: real servers, a real generator, real sockets."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from superserve.errors import ConfigError, ModelFolderError, SuperServeError, UnknownModelError
from superserve.experiments.demo import DemoOptions, fixed_policies, run_demo
from superserve.model_folder import write_json
from superserve.scheduling.policy import DEFAULT_POLICY
from support.folders import write_digits_like_folder
from support.processes import children_of_ours, command_line
from support.profiles import make_profile

pytestmark = pytest.mark.integration


@pytest.fixture
def options(tmp_path: Path) -> DemoOptions:
    """Two subnets of 8 and 60 ms at batch 4, one worker: about 60 requests/s."""
    profile = make_profile([[4.0, 8.0], [30.0, 60.0]], (1, 4), overhead_us=1000.0)
    write_json(tmp_path / "profile.json", profile)
    return DemoOptions(
        model=str(write_digits_like_folder(tmp_path / "digits")),
        seconds=0.6,
        workers=1,
        device=f"emulated:{tmp_path / 'profile.json'}",
        out=tmp_path / "report",
    )


@pytest.fixture
def nothing_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where scratch folders go; fails if one of them, or a process of ours, outlives the test."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))  # of the processes that it starts
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    yield scratch
    assert not children_of_ours()
    assert not list(scratch.glob("superserve-demo-*"))


def test_fixed_policies_are_largest_middle_smallest_each_once() -> None:
    assert fixed_policies(["a", "b", "c", "d", "e"]) == ["fixed:e", "fixed:c", "fixed:a"]
    assert fixed_policies(["a", "b"]) == ["fixed:b", "fixed:a"]
    assert fixed_policies(["a"]) == ["fixed:a"]


@pytest.mark.usefixtures("nothing_left")
def test_demo_runs_every_policy_live_and_simulated_and_reports(
    options: DemoOptions, capfd: pytest.CaptureFixture[str]
) -> None:
    report = run_demo(options, Console())
    policies = [DEFAULT_POLICY, "fixed:s1", "fixed:s0"]
    assert [row.policy for row in report.live] == policies
    assert [row.policy for row in report.simulated] == policies
    assert report.slo_ms == pytest.approx(1.17 * 60.0)
    assert {row.offered for row in (*report.live, *report.simulated)} == {report.load.requests}
    for row in report.live:
        assert row.served + row.late + row.expired + row.rejected + row.cancelled + row.failed == row.offered
        assert (row.failed, row.cancelled) == (0, 0)
        assert row.emulated
        assert row.measured_accuracy is None
    elastic, largest, smallest = report.live
    assert elastic.slo_attainment > 0.5
    assert smallest.slo_attainment > 0.9
    assert largest.mean_serving_accuracy == 71.0
    assert smallest.mean_serving_accuracy == 70.0
    assert all(0 <= run.router_core_share < 2 for run in report.runs)  # so short a run may use next to none
    written = json.loads((options.out / "report.json").read_text())
    assert [row["policy"] for row in written["live"]] == policies
    assert (options.out / "index.html").is_file()
    out = capfd.readouterr().out
    assert "fixed:s1" in out
    assert "1 emulated worker" in out


@pytest.mark.usefixtures("nothing_left")
def test_what_cannot_be_used_is_said_before_anything_starts(options: DemoOptions, tmp_path: Path) -> None:
    def attempt(**changes: object) -> None:
        values = {name: getattr(options, name) for name in ("model", "seconds", "workers", "device", "out", "cv2")}
        run_demo(DemoOptions(**{**values, **changes}), Console(quiet=True))

    with pytest.raises(UnknownModelError):
        attempt(model="no-such-model")
    with pytest.raises(ConfigError, match="workers"):
        attempt(workers=0)
    with pytest.raises(ConfigError, match="cv2"):
        attempt(cv2=-1.0)
    with pytest.raises(ConfigError, match="seconds"):
        attempt(seconds=0.0)
    with pytest.raises(ConfigError, match="out"):
        attempt(out=tmp_path / "profile.json")
    (tmp_path / "digits" / "test.npz").unlink()
    with pytest.raises(ModelFolderError, match=r"test\.npz"):
        attempt()


@pytest.mark.usefixtures("nothing_left")
def test_a_server_that_cannot_start_is_shown_with_its_own_words(options: DemoOptions, tmp_path: Path) -> None:
    (tmp_path / "digits" / "config.json").write_text('{"format": 1}')
    with pytest.raises(SuperServeError, match=r"config\.json"):
        run_demo(options, Console(quiet=True))


def _has_child(words: str) -> Callable[[psutil.Process], bool]:
    def found(demo: psutil.Process) -> bool:
        return any(words in " ".join(command_line(child)) for child in demo.children(recursive=True))

    return found


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        pytest.param(_has_child("superserve.serving.worker"), signal.SIGTERM, id="profiling"),
        pytest.param(_has_child("superserve serve"), signal.SIGINT, id="server starting"),
        pytest.param(_has_child("replay_process"), signal.SIGINT, id="replaying"),
    ],
)
def test_a_signal_at_any_moment_leaves_nothing_behind(
    options: DemoOptions, nothing_left: Path, moment: Callable[[psutil.Process], bool], number: signal.Signals
) -> None:
    code = (
        "import sys; from pathlib import Path; from rich.console import Console; "
        "from superserve.experiments.demo import DemoOptions, run_demo; "
        "run_demo(DemoOptions(model=sys.argv[1], seconds=30.0, workers=1, device=sys.argv[2], out=Path(sys.argv[3])), "
        "Console())"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, options.model, options.device, str(options.out)],
        start_new_session=True,
    ) as process:
        demo = psutil.Process(process.pid)
        try:
            _wait_for(lambda: moment(demo))
            family = demo.children(recursive=True)
            os.killpg(process.pid, number)  # as a terminal does
            assert process.wait(timeout=8.0) == 128 + number
        finally:
            process.kill()
    gone, alive = psutil.wait_procs(family, timeout=2.0)
    assert gone
    assert not alive
    assert not list(nothing_left.iterdir())


def _wait_for(happened: Callable[[], bool]) -> None:
    for _ in range(400):
        if happened():
            return
        time.sleep(0.02)
    raise AssertionError("it did not happen within 8 s")
