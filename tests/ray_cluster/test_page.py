"""docs/how-to/run-on-ray.md, executed as written on one machine that plays two."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

PAGE = Path(__file__).parents[2] / "docs/how-to/run-on-ray.md"
_MARK = "SUPERSERVE_PAGE_TEST"


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Of the page's commands. What they leave running ends then: `ray stop` would end other clusters, too."""
    found = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        _MARK: str(tmp_path),
    }
    yield found
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(_MARK) == str(tmp_path):
                process.send_signal(signal.SIGKILL)


def test_run_on_ray(environment: dict[str, str], tmp_path: Path) -> None:
    """All of it in one shell, which fails where a command does."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 5
    bash = shutil.which("bash")
    assert bash is not None
    ran = subprocess.run(
        [bash, "-c", "\n".join(["set -e", *blocks])],
        cwd=tmp_path,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=400,
    )
    log = tmp_path / "server.log"
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}\n{log.read_text() if log.exists() else 'no server'}"
    found = re.search(r"^(\d) is (\d)$", ran.stdout, re.MULTILINE)
    assert found is not None
    assert found[1] == found[2]
