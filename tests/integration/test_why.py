"""``superserve why`` of a live server: requests that ended in every way, each explained by its record."""

import http.client
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from support.folders import write_digits_like_folder
from support.processes import command_line
from support.server_process import ServerProcess, serving

pytestmark = pytest.mark.integration

TENSOR = {"name": "image", "shape": [1, 8, 8], "datatype": "UINT8", "data": [0] * 64}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    scratch = tmp_path_factory.mktemp("why")
    folder = write_digits_like_folder(scratch / "digits")
    with serving(folder, "--workers", "2", "--slo-ms", "200", scratch=scratch) as ready:
        yield ready


class Asked:
    """A request that has been sent and waits for its answer."""

    def __init__(self, server: ServerProcess, request_id: str, **parameters: Any) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        body = json.dumps({"inputs": [TENSOR], "parameters": parameters})
        self._connection.request("POST", "/v2/models/digits/infer", body, {"x-request-id": request_id})

    def answered(self) -> tuple[int, dict[str, Any]]:
        """Status and parameters of the answer, or the error."""
        response = self._connection.getresponse()
        answer = json.load(response)
        self._connection.close()
        return response.status, answer.get("parameters", answer)


def why(server: ServerProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "superserve", "why", "--url", server.url, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def explained(server: ServerProcess, request_id: str, tmp_path: Path) -> tuple[dict[str, Any], str]:
    """JSON and text of an explanation."""
    file = tmp_path / f"{request_id}.json"
    ran = why(server, request_id, "--json", str(file))
    assert ran.returncode == 0, ran.stderr
    return json.loads(file.read_bytes()), ran.stdout


def workers_of(server: ServerProcess) -> list[psutil.Process]:
    return [child for child in server.children() if "superserve.serving.worker" in " ".join(command_line(child))]


def test_served_and_degraded(server: ServerProcess, tmp_path: Path) -> None:
    """The subnet of the answer is that of the record; with a short deadline it is a smaller one, for lack of slack."""
    status, served = Asked(server, "served").answered()
    told, text = explained(server, "served", tmp_path)
    assert (status, told["outcome"]) == (200, "served")
    assert told["attempts"][-1]["subnet"] == served["superserve_subnet"]
    assert served["superserve_subnet"] in text
    status, degraded = Asked(server, "degraded", timeout=4_500).answered()
    told, text = explained(server, "degraded", tmp_path)
    assert (status, told["deadline_ms"]) == (200, 4.5)
    assert told["attempts"][-1]["subnet"] == degraded["superserve_subnet"]
    assert degraded["superserve_accuracy"] < served["superserve_accuracy"]
    assert "points below" in text
    assert "what would have changed it" in text


def test_late(server: ServerProcess, tmp_path: Path) -> None:
    """Workers that stand still for longer than the deadline allows: the record says that they overran their plan."""
    workers = workers_of(server)
    for worker in workers:
        worker.suspend()
    asked = Asked(server, "late", timeout=50_000)
    time.sleep(0.2)
    for worker in workers:
        worker.resume()
    status, answer = asked.answered()
    assert (status, answer["slo_met"]) == (200, False)
    told, text = explained(server, "late", tmp_path)
    (attempt,) = told["attempts"]
    assert told["outcome"] == "late"
    assert told["ended_ms"] > told["deadline_ms"] == 50
    assert attempt["taken_ms"] + attempt["overhead_ms"] > attempt["planned_ms"] + attempt["planned_overhead_ms"] + 50
    assert "after its deadline" in text


def test_refused(server: ServerProcess, tmp_path: Path) -> None:
    """The arithmetic of a deadline that nothing can meet."""
    status, error = Asked(server, "refused", timeout=500).answered()
    assert (status, "no subnet can answer" in error["error"]) == (504, True)
    told, text = explained(server, "refused", tmp_path)
    refusal = told["refusal"]
    assert (told["outcome"], told["attempts"]) == ("rejected", [])
    assert refusal["left_ms"] <= 0.5 < refusal["fastest_ms"] + refusal["planned_overhead_ms"]
    assert "too little" in text


def test_redispatched(server: ServerProcess, tmp_path: Path) -> None:
    """Each of two workers has a request when one of them is killed: its request runs again on the other."""
    victim, survivor = workers_of(server)
    for worker in (victim, survivor):
        worker.suspend()
    asked = {name: Asked(server, name, timeout=20_000_000) for name in ("first", "second")}
    time.sleep(0.2)
    victim.send_signal(signal.SIGKILL)
    survivor.resume()
    assert [request.answered()[0] for request in asked.values()] == [200, 200]
    told = {name: explained(server, name, tmp_path) for name in asked}
    (again, text), (once, _) = sorted(told.values(), key=lambda pair: -len(pair[0]["attempts"]))
    assert [attempt["fate"] for attempt in again["attempts"]] == ["lost", "answered"]
    assert [attempt["fate"] for attempt in once["attempts"]] == ["answered"]
    lost, last = again["attempts"]
    assert lost["worker"] != last["worker"]
    assert f"Worker {lost['worker']} was lost" in text


def test_the_latest_and_what_is_unknown(server: ServerProcess) -> None:
    """A list without an id; an unknown id is a failure that says so."""
    Asked(server, "latest").answered()
    listed = why(server)
    assert (listed.returncode, "latest" in listed.stdout) == (0, True)
    unknown = why(server, "never-came")
    assert (unknown.returncode, "no request 'never-came'" in unknown.stderr) == (1, True)


def test_no_server() -> None:
    """One line, no traceback."""
    command = [sys.executable, "-m", "superserve", "why", "x", "--url", "http://127.0.0.1:9"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (ran.returncode, "does not tell" in ran.stderr, "Traceback" in ran.stderr) == (1, True, False)
