"""The command line's surface: a command or option appears, changes or goes only on purpose."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from superserve.bounds import distance
from superserve.cli import app, main
from superserve.clock import NS_PER_MS
from superserve.errors import ConfigError
from superserve.traces.trace import Trace

SURFACE = {
    "compare": {
        "--traces", "--policies", "--profile", "--slo-ms", "--workers", "--seeds", "--overhead-ms", "--timeout-action",
        "--slowdown", "--actuation-ms", "--lose", "--join", "--figure", "--json",
    },
    "pack": {"MODEL", "--data", "--dtype", "--runtimes", "--force", "--json"},
    "compile": {"MODEL", "--dtype", "--jobs", "--force", "--json"},
    "config show": {"--config"},
    "demo": {"--seconds", "--seed", "--workers", "--device", "--engine", "--dtype", "--cv2", "--out", "--json"},
    "evaluate": {"MODEL", "--data", "--subnet", "--engine", "--dtype", "--json"},
    "import": {
        "FAMILY", "--out", "--checkpoint", "--folder", "--download", "--calibrate-with", "--data", "--subnets",
        "--seed", "--json",
    },
    "ledger": {"--url", "--ca-file", "--json"},
    "models": {"--url", "--ca-file", "--json"},
    "profile": {"MODEL", "--quick", "--device", "--engine", "--dtype", "--levers", "--figure", "--seed", "--json"},
    "replay": {"TRACE", "--url", "--model", "--slo-ms", "--seed", "--ca-file", "--json"},
    "reprofile": {"MODEL", "--url", "--ca-file", "--json"},
    "reproduce": {"[E1 ... E11|live|all]", "--out", "--data", "--seeds", "--shorten", "--runs", "--json"},
    "search": {"MODEL", "--out", "--data", "--budget", "--subnets", "--levers", "--seed", "--json"},
    "serve": {
        "MODEL", "--host", "--http-port", "--grpc-port", "--metrics-port", "--workers", "--policy", "--slo-ms",
        "--timeout-action", "--device", "--engine", "--engine-memory", "--dtype", "--profile", "--model-repository",
        "--record", "--otel-endpoint", "--otel-sampled", "--ledger", "--reprofile", "--log-format", "--pool",
        "--ray-address", "--config", "--ready-file",
    },
    "simulate": {
        "TRACE", "--profile", "--slo-ms", "--policy", "--workers", "--overhead-ms", "--timeout-action", "--slowdown",
        "--actuation-ms", "--lose", "--join", "--patience-ms", "--max-queued", "--packs", "--engine-memory",
        "--unpacked", "--resident", "--bound", "--seed", "--figure", "--series", "--outcomes", "--decisions",
        "--chrome-trace", "--json",
    },
    "trace convert": {
        "SRC", "--format", "--out", "--squeeze", "--rate", "--bin-seconds", "--column", "--seed",
    },
    "trace make": {
        "KIND", "--out", "--rate", "--base-rate", "--cv2", "--seconds", "--acceleration", "--start", "--period",
        "--spike", "--slo-ms", "--seed",
    },
    "trace show": {"TRACE", "--figure", "--json"},
    "why": {"REQUEST_ID", "--url", "--ca-file", "--json"},
    "train": {"RECIPE", "--out", "--data", "--seed", "--epochs", "--processes", "--resume", "--backbone"},
}  # fmt: skip


def surface(command: typer.core.TyperGroup | typer.core.TyperCommand, path: str = "") -> dict[str, set[str]]:
    """Every command with the names of its arguments and options."""
    if isinstance(command, typer.core.TyperGroup):
        found: dict[str, set[str]] = {}
        for name, child in command.commands.items():
            found |= surface(child, f"{path} {name}".strip())  # type: ignore[arg-type]
        return found
    names = set()
    for parameter in command.params:
        option = next((name for name in parameter.opts if name.startswith("--")), None)
        names.add(option or parameter.metavar or (parameter.name or "").upper())
    return {path: names}


def test_commands_and_options() -> None:
    """Exactly these; the README and design name them."""
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    assert surface(group) == SURFACE


@pytest.mark.parametrize("command", ["", *SURFACE])
def test_help_explains_itself(command: str) -> None:
    """Every command answers --help."""
    result = CliRunner().invoke(app, [*command.split(), "--help"])
    assert result.exit_code == 0
    assert "Usage" in result.output


@pytest.mark.parametrize(
    ("arguments", "status", "named"),
    [
        (["serve", "digits", "--engine", "onnx"], 2, "packed"),
        (["serve", "digits", "--engine-memory", "much"], 2, "200MB"),
        (["evaluate", "digits", "--dtype", "float16"], 2, "bfloat16"),
        (["compile", "digits", "--dtype", "float64"], 2, "bfloat16"),
        (["serve", "no-such-model"], 2, "no-such-model"),
        (["serve", "no-such-model", "--policy", "slackfitt"], 2, "slackfit"),
        (["train", "imagenet", "--out", "unused"], 2, "digits"),
        (["simulate", "missing.npz", "--profile", "r-profile", "--slo-ms", "9"], 2, "missing.npz"),
        (["trace", "make", "sawtooth", "--out", "unused", "--rate", "1"], 2, "bursty"),
        (["simulate", "missing.npz", "--profile", "r-profile", "--slo-ms", "9", "--lose", "1-2"], 2, "WORKER@SECONDS"),
        (
            [
                "compare",
                "--traces",
                "x",
                "--policies",
                "y",
                "--profile",
                "r-profile",
                "--slo-ms",
                "9",
                "--timeout-action",
                "drop",
            ],
            2,
            "reject or delay",
        ),
        (["trace", "make", "poisson", "--out", "unused", "--rate", "1", "--slo-ms", "fast"], 2, "milliseconds"),
        (["reproduce", "E12"], 2, "E12"),
        (["config", "show", "--config", "missing.toml"], 2, "missing.toml"),
    ],
)
def test_usage_errors_name_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, named: str
) -> None:
    """Exit code 2 and one line, no traceback."""
    monkeypatch.setattr("sys.argv", ["superserve", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == status
    error = capsys.readouterr().err
    assert named in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("options", "named"), [(["--pool", "ray"], "superserve[ray]"), (["--ray-address", "head:6379"], "--pool ray")]
)
def test_without_ray_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: list[str], named: str
) -> None:
    """An extra that is not there, and an option that is for it."""
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr("sys.argv", ["superserve", "serve", "digits", "--device", "emulated:r-profile", *options])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert named in error
    assert "Traceback" not in error


def test_other_platforms_are_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A clear sentence instead of a missing function later on."""
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    monkeypatch.setattr("sys.argv", ["superserve", "models"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert "Darwin" in capsys.readouterr().err


def test_trace_make_show_simulate(tmp_path: Path) -> None:
    """The three commands on one file, with JSON that holds the rows."""
    trace, rows = str(tmp_path / "t.npz"), tmp_path / "rows.json"
    run = CliRunner().invoke
    made = run(
        app, ["trace", "make", "bursty", "--rate", "300", "--base-rate", "100", "--seconds", "2", "--out", trace]
    )
    assert made.exit_code == 0, made.output
    assert run(app, ["trace", "show", trace]).exit_code == 0
    simulated = run(
        app, ["simulate", trace, "--profile", "r-profile", "--slo-ms", "36", "--workers", "2", "--json", str(rows)]
    )
    assert simulated.exit_code == 0, simulated.output
    assert '"slo_attainment": 1.0' in rows.read_text()


def test_simulate_takes_a_profile_and_a_number_of_workers_for_each_device(tmp_path: Path) -> None:
    """In either form of options with many values; as many of the one as of the other."""
    trace, rows = tmp_path / "t.npz", tmp_path / "rows.json"
    Trace("t", np.arange(20, dtype=np.int64) * NS_PER_MS).save(trace)
    command = ["simulate", str(trace), "--slo-ms", "36", "--profile", "r-profile", "--profile", "r-profile"]
    run = CliRunner().invoke
    simulated = run(app, [*command, "--workers", "2", "3", "--json", str(rows)])
    assert simulated.exit_code == 0, simulated.output
    assert '"workers": 5' in rows.read_text()
    assert "2 + 3 workers" in simulated.output
    assert "no bound is known" in simulated.output
    assert isinstance(run(app, [*command, "--workers", "2"]).exception, ConfigError)


def test_long_runs_have_no_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would take more memory than the run."""
    Trace("t", np.arange(20, dtype=np.int64) * NS_PER_MS).save(tmp_path / "t.npz")
    command = ["simulate", str(tmp_path / "t.npz"), "--profile", "r-profile", "--slo-ms", "36"]
    assert "below what no policy can pass" in CliRunner().invoke(app, command).output
    monkeypatch.setattr(distance, "MOST_REQUESTS", 19)
    without = CliRunner().invoke(app, command)
    assert without.exit_code == 0, without.output
    assert "no bound for more than 19 requests" in without.output
    assert "below what no policy can pass" not in without.output


@pytest.mark.parametrize(
    ("kind", "options", "requests"),
    [
        ("poisson", [], 600),
        ("gamma", ["--cv2", "4"], 600),
        ("bursty", ["--base-rate", "100"], 800),
        ("ramp", ["--base-rate", "100", "--acceleration", "200", "--start", "0.5"], 400),
        ("spikes", ["--base-rate", "100", "--period", "1", "--spike", "0.2"], 280),
    ],
)
def test_trace_make_kinds(tmp_path: Path, kind: str, options: list[str], requests: int) -> None:
    """Each kind with its own options gives about the number of requests that they say."""
    path = tmp_path / "t.npz"
    arguments = ["trace", "make", kind, "--rate", "300", "--seconds", "2", "--out", str(path), *options]
    made = CliRunner().invoke(app, arguments)
    assert made.exit_code == 0, made.output
    assert len(Trace.load(path)) == pytest.approx(requests, rel=0.2)


def test_simulate_writes_whatever_is_asked_for(tmp_path: Path) -> None:
    """Classes of deadlines, a lost worker, a new one, slow ones, impatient clients; and all files of the run."""
    run, trace = CliRunner().invoke, str(tmp_path / "t.npz")
    arguments = ["gamma", "--rate", "2000", "--cv2", "4", "--seconds", "1", "--slo-ms", "36:0.5", "100:0.5"]
    made = run(app, ["trace", "make", *arguments, "--out", trace])
    assert made.exit_code == 0, made.output
    shown = run(app, ["trace", "show", trace, "--figure", str(tmp_path / "t.png"), "--json", str(tmp_path / "s.json")])
    assert "class 1: deadline 100 ms" in shown.output
    assert json.loads((tmp_path / "s.json").read_text())["gap_cv2"] == pytest.approx(4.0, rel=0.3)
    files = {name: tmp_path / f"run.{name}" for name in ("figure", "series", "outcomes", "decisions", "chrome-trace")}
    options = [text for name, path in files.items() for text in (f"--{name}", str(path))]
    server = [
        "--profile",
        "r-profile",
        "--slo-ms",
        "36",
        "--workers",
        "3",
        "--policy",
        "slackfit",
        "--overhead-ms",
        "1",
    ]
    trouble = ["--lose", "0@0.3", "1@0.6", "--join", "3@0.7", "--slowdown", "1", "1", "1.5", "--patience-ms", "200"]
    trouble += ["--actuation-ms", "0.1"]
    simulated = run(app, ["simulate", trace, *server, *trouble, "--json", str(tmp_path / "r.json"), *options])
    assert simulated.exit_code == 0, simulated.output
    result = json.loads((tmp_path / "r.json").read_text())
    (row,) = result["rows"]
    assert row["cancelled"] > 0
    assert row["distance_to_bound"] >= 0
    assert sum(one["offered"] for one in result["classes"]) == row["offered"]
    assert [path.read_bytes()[:4] for name, path in files.items() if name == "figure"] == [b"\x89PNG"]
    assert files["series"].read_text().startswith("time_s,offered,served,missed,accuracy,batch,waiting\n")
    with np.load(files["outcomes"]) as columns:
        assert len(columns["outcome"]) == row["offered"]
    decisions = [json.loads(line) for line in files["decisions"].read_text().splitlines()]
    assert {one["worker"] for one in decisions} == {0, 1, 2, 3}
    assert decisions[0]["subnet"].startswith("r")
    chrome = json.loads(files["chrome-trace"].read_text())["traceEvents"]
    assert sum(event["ph"] == "X" for event in chrome) == len(decisions)


def test_compare_takes_several_values_per_option(tmp_path: Path) -> None:
    """``--traces a b`` as design and README write it; a row per trace, policy and seed."""
    run, rows = CliRunner().invoke, tmp_path / "rows.json"
    names = [str(tmp_path / name) for name in ("a.npz", "b.npz")]
    for name in names:
        assert run(app, ["trace", "make", "poisson", "--rate", "200", "--seconds", "1", "--out", name]).exit_code == 0
    arguments = ["--policies", "default", "fixed:smallest", "--profile", "r-profile", "--slo-ms", "36", "--seeds", "2"]
    compared = run(app, ["compare", "--traces", *names, *arguments, "--json", str(rows)])
    assert compared.exit_code == 0, compared.output
    assert rows.read_text().count('"slo_attainment"') == 8
