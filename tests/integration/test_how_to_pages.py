"""Pages of docs that need no data, executed as written: files and commands, in an empty folder."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.pages]

DOCS = Path(__file__).parents[2] / "docs"
PAGES = DOCS / "how-to"


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and content of every fenced block, in order."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", (PAGES / page).read_text(), re.DOTALL | re.MULTILINE)


def install(folder: Path) -> None:
    """What ``pip install -e .`` leaves behind of a project without dependencies, in the folder itself."""
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
        for group, entries in project["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("\n".join(groups))


class Reader:
    """Somebody who works through a page in an empty folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said = ""
        paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(paths),
            "COLUMNS": "200",
        }

    def do(self, language: str, content: str) -> None:
        """A file to write, commands to run, or what they are promised to say."""
        if language in {"python", "toml"}:
            name = content.partition("\n")[0].removeprefix("# file: ")
            (self.folder / name).write_text(content)
        elif language == "sh":
            for line in content.splitlines():
                self._command(line)
        elif language == "text":
            for line in content.splitlines():
                assert line.rstrip() in self.said

    def _command(self, line: str) -> None:
        if line == "pip install -e .":
            install(self.folder)
            return
        command = shlex.split(line)
        if command[0] == "superserve":
            command[:1] = [sys.executable, "-m", "superserve"]
        ran = subprocess.run(
            command, cwd=self.folder, env=self.environment, check=False, capture_output=True, text=True
        )
        assert ran.returncode == 0, f"{line}\n{ran.stdout}\n{ran.stderr}"
        self.said += ran.stdout


def work_through(page: str, folder: Path) -> Reader:
    reader = Reader(folder)
    for language, content in blocks(page):
        reader.do(language, content)
    return reader


def test_plan_capacity(tmp_path: Path) -> None:
    """Every command works, and leaves the files that the page names."""
    reader = work_through("plan-capacity.md", tmp_path)
    for name in ("minute.png", "run.png", "run.json", "compare.png", "compare.json"):
        assert (tmp_path / name).stat().st_size > 1000
    assert reader.said.count("below what no policy can pass") == 8


def test_profile_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its levers and the conditions that it was measured under; nobody's cache is written to."""
    monkeypatch.setenv("SUPERSERVE_CACHE", str(tmp_path / "cache"))
    reader = work_through("profile-a-model.md", tmp_path)
    assert "Which lever pays" in reader.said
    profile = json.loads((tmp_path / "profile.json").read_bytes())
    assert {step["lever"] for step in profile["levers"]["steps"]} >= {"batch", "depth", "stage*"}
    assert profile["conditions"]["spread"] >= 0
    assert (tmp_path / "levers.png").stat().st_size > 1000


def test_write_a_policy(tmp_path: Path) -> None:
    """The policy is found by its name, and its contract is kept."""
    reader = work_through("write-a-policy.md", tmp_path)
    assert reader.said.count("half-slack") >= 3
    assert (tmp_path / "decisions.jsonl").read_text().count("\n") > 100


def test_write_an_adapter(tmp_path: Path) -> None:
    """Adapters that a package brings are found."""
    work_through("write-an-adapter.md", tmp_path)


def test_explain_a_request(tmp_path: Path) -> None:
    """Three requests that end differently, each explained."""
    reader = work_through("explain-a-request.md", tmp_path)
    assert "the latest 3 requests" in reader.said
    told = json.loads((tmp_path / "hurried.json").read_bytes())
    assert told["outcome"] in {"served", "late"}  # 5 ms are little on a machine that is busy with tests
    assert told["attempts"][0]["bound"] == "slack"


def test_spend_memory_for_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Subnets are packed, and answer within the budget."""
    monkeypatch.setenv("SUPERSERVE_CACHE", str(tmp_path / "cache"))
    work_through("spend-memory-for-speed.md", tmp_path)


def test_use_idle_time(tmp_path: Path) -> None:
    """Answers of the smallest subnet are compared, and the profile is measured again."""
    work_through("use-idle-time.md", tmp_path)
    (ledger,) = json.loads((tmp_path / "ledger.json").read_bytes())["models"]
    assert ledger["rows"][0]["answered"] == 200
    assert ledger["rows"][0]["compared"] > 0
    assert json.loads((tmp_path / "reprofile.json").read_bytes())["state"] == "measured"


def test_watch_it_live(tmp_path: Path) -> None:
    """The activity of a server under bursts, and its signals to scale on."""
    reader = work_through("watch-it-live.md", tmp_path)
    offered = [int(line.split()[0]) for line in reader.said.splitlines() if " offered " in line]
    assert len(offered) >= 7
    assert min(offered) < 100 < max(offered)


def test_ask_what_if(tmp_path: Path) -> None:
    """A load is recorded, and asked about with other settings."""
    work_through("ask-what-if.md", tmp_path)
    same, more = (json.loads((tmp_path / name).read_bytes())["rows"][0] for name in ("same.json", "more.json"))
    assert same["offered"] == more["offered"] > 1000
    assert (same["workers"], more["workers"]) == (2, 3)


def in_one_shell(page: str, folder: Path, **environment: str) -> str:
    """What a page prints whose blocks share a shell; it fails where a command does, and ends the server in any case."""
    script = ["set -e", "trap 'kill $server 2> /dev/null || true' EXIT"]
    for language, content in blocks(page):
        if language in {"bash", "python"}:
            script.append(content if language == "bash" else f"python3 - <<'PYTHON'\n{content}PYTHON\n")
    reader = Reader(folder)
    bash = shutil.which("bash")
    assert bash is not None
    ran = subprocess.run(
        [bash, "-c", "\n".join(script)],
        cwd=folder,
        env=reader.environment | environment,
        check=False,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}\n{(folder / 'server.log').read_text()}"
    return ran.stdout


@pytest.mark.skipif(shutil.which("openssl") is None, reason="the page makes its certificate with it")
def test_secure_the_server(tmp_path: Path) -> None:
    """Strangers and clients get what they should."""
    said = in_one_shell("secure-the-server.md", tmp_path)
    assert said.count("401\n") == 1
    assert said.count("403\n") == 1


def test_start_in_five_minutes(tmp_path: Path) -> None:
    """The longest deadline gets the largest subnet, the shortest one a refusal; nobody else may use its ports."""
    said = in_one_shell("../getting-started.md", tmp_path)
    assert re.search(r"^by subnet s5, which gets [\d.]+ % right$", said, re.MULTILINE)
    assert re.search(r"^1000 ms: subnet s5, ", said, re.MULTILINE)
    assert re.search(r"^0.3 ms: .*deadline", said, re.MULTILINE)
    assert "the latest" in said


def test_concepts(tmp_path: Path) -> None:
    """The commands that made its figure."""
    reader = work_through("../concepts.md", tmp_path)
    assert (tmp_path / "bursts.png").stat().st_size > 1000
    said = re.findall(r"^ *(?:default|fixed:largest) +([\d.]+) +([\d.]+)", reader.said, re.MULTILINE)
    (elastic, accuracy), (fixed, best) = (map(float, row) for row in said)
    assert elastic > 0.999
    assert accuracy == pytest.approx(77.84, abs=0.1)
    assert fixed == pytest.approx(0.44, abs=0.01)
    assert best == 80.16


def test_serve_a_checkpoint(tmp_path: Path) -> None:
    """Six subnets are measured, and the whole one gets everything right: that is what right is taken to be."""
    work_through("serve-a-checkpoint.md", tmp_path)
    rows = json.loads((tmp_path / "import.json").read_bytes())["subnets"]
    assert len(rows) == 6
    assert rows[-1]["accuracy"] == 100
    assert list((tmp_path / "reviews/profiles").glob("*.json"))


def test_replay_a_trace(tmp_path: Path) -> None:
    """All of the day is sent."""
    work_through("replay-a-trace.md", tmp_path)
    (row,) = json.loads((tmp_path / "replay.json").read_bytes())["rows"]
    assert row["offered"] > 300
