"""docs/how-to/convert-my-model.md, executed as written: files, commands, server and all."""

import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from support.ports import free_port

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "convert-my-model.md"
START_S = 60.0


def blocks() -> list[tuple[str, str]]:
    """Language and content of every fenced block, in order."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)


class Reader:
    """Somebody who works through the page in an empty folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.said = ""
        self.promised: list[str] = []
        self._environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        self._servers: list[subprocess.Popen[bytes]] = []

    def do(self, language: str, content: str) -> None:
        content = content.replace(":8000", f":{self.port}").replace("port 8000", f"port {self.port}")
        if language == "python":
            name = content.partition("\n")[0].removeprefix("# file: ")
            with (self.folder / name).open("a") as file:
                file.write(content + "\n\n")
        elif language == "sh":
            for line in content.splitlines():
                self._command(line)
        else:
            self.promised.append(content.strip())

    def stop(self) -> None:
        for server in self._servers:
            server.send_signal(signal.SIGTERM)
            server.wait(20)

    def _command(self, line: str) -> None:
        if line.startswith("export "):
            name, _, value = line.removeprefix("export ").partition("=")
            self._environment[name] = value
        elif line.startswith("superserve serve "):
            self._servers.append(subprocess.Popen(line.split(), cwd=self.folder, env=self._environment))
            self._wait()
        else:
            self.said += self._run(line)

    def _run(self, line: str) -> str:
        done = subprocess.run(
            line.split(), cwd=self.folder, env=self._environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def _wait(self) -> None:
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/v2/health/ready") as answer:
                    if answer.status == 200:
                        return
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.05)
        raise AssertionError("the server is not ready")


def test_the_page_works_as_written(tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    try:
        for language, content in blocks():
            reader.do(language, content)
    finally:
        reader.stop()
    assert reader.promised
    assert all(text in reader.said for text in reader.promised), reader.said
    assert re.search(r"\d subnets, [\d.]+ to [\d.]+ % on validation images", reader.said)
    assert re.search(r"\[0 1\] labels \[0 1\] by subnet s\d", reader.said)
