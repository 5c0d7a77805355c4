"""docs/how-to/serve-text.md: its programs, run against the bundled model, say what the page says."""

import re
from pathlib import Path

import pytest

from superserve.model_folder import ModelFolder, write_json
from support.profiles import guessed_profile
from support.server_process import serving

pytestmark = pytest.mark.integration

PAGE = Path(__file__).parents[2] / "docs/how-to/serve-text.md"


def test_the_programs_run_as_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only ports differ."""
    programs = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    promised = re.findall(r"```text\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(programs) == len(promised) == 2
    write_json(tmp_path / "guess.json", guessed_profile(ModelFolder.resolve("intents")))
    options = ("--profile", tmp_path / "guess.json", "--slo-ms", "5000", "--workers", "1")
    with serving(Path("intents"), *options, scratch=tmp_path, device="cpu") as server:
        for program, said in zip(programs, promised, strict=True):
            for url in (server.address, server.grpc) if "grpc://" in program else (server.address,):
                adapted = program.replace("127.0.0.1:8000", url)
                if url == server.grpc:
                    adapted = adapted.replace("http://", "grpc://")
                exec(compile(adapted, PAGE.name, "exec"), {})  # noqa: S102  (our own file)
                assert capsys.readouterr().out == said
