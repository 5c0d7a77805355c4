"""The README's client example, as it stands there."""

import re
from pathlib import Path

import pytest

from support.folders import write_digits_like_folder
from support.server_process import serving

pytestmark = pytest.mark.integration

README = Path(__file__).parents[2] / "README.md"


def test_the_client_example_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Over HTTP as written, and over gRPC with the URL that its comment names; only ports and floor differ."""
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert "min_accuracy=90" in example
    folder = write_digits_like_folder(tmp_path / "digits")
    with serving(folder, "--workers", "1", "--slo-ms", "2000", scratch=tmp_path) as server:
        for url in (server.url, f"grpc://{server.grpc}"):
            program = example.replace("http://127.0.0.1:8000", url)
            # The emulated profile's subnets are less accurate, and its workers share cores with the tests.
            program = program.replace("min_accuracy=90", "min_accuracy=75").replace("slo_ms=100", "slo_ms=2000")
            exec(compile(program, "README.md", "exec"), {})  # noqa: S102  (our own file)
    assert capsys.readouterr().out.count("ReplyParameters(subnet='") == 2
