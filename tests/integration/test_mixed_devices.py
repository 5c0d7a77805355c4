"""A server whose workers emulate two devices: each request is planned and answered by the profile of its worker."""

import http.client
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from superserve.model_folder import write_json
from superserve.profile import Profile
from support.folders import write_digits_like_folder
from support.profiles import with_factors
from support.server_process import ServerProcess, serving

pytestmark = pytest.mark.integration

TENSOR = {"name": "image", "shape": [1, 8, 8], "datatype": "UINT8", "data": [0] * 64}


def asked(server: ServerProcess, method: str, path: str, body: Any = None, **headers: str) -> dict[str, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request(method, path, None if body is None else json.dumps(body), headers)
    response = connection.getresponse()
    found: dict[str, Any] = json.load(response)
    connection.close()
    assert response.status == 200, found
    return found


def test_two_emulated_devices_serve_one_model(tmp_path: Path) -> None:
    """Eight requests at once on three workers: as `why` tells, both devices are used, the slow one in its own time."""
    fast = Profile.load("r-profile")
    sizes = [10.0] * len(fast.batches)
    slow = msgspec.structs.replace(fast, subnets=tuple(with_factors(subnet, sizes) for subnet in fast.subnets))
    write_json(tmp_path / "slow.json", slow)
    device = f"emulated:r-profile,{tmp_path / 'slow.json'}"
    folder = write_digits_like_folder(tmp_path / "digits")
    options = ("--workers", "3", "--slo-ms", "1000", "--policy", "fixed:smallest")
    with serving(folder, *options, scratch=tmp_path, device=device) as server:

        def infer(number: int) -> dict[str, Any]:
            headers = {"x-request-id": f"r{number}"}
            return asked(server, "POST", "/v2/models/digits/infer", {"inputs": [TENSOR]}, **headers)

        with ThreadPoolExecutor(8) as clients:
            answers = list(clients.map(infer, range(40)))
        assert all(answer["parameters"]["slo_met"] for answer in answers)
        told = [asked(server, "GET", f"/v2/decisions/r{number}")["attempts"][-1] for number in range(40)]
        command = [sys.executable, "-m", "superserve", "why", "--url", server.url, "r0"]
        text = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
        # A title is broken where its table ends, even within a path.
        assert f"worker{told[0]['worker']}({told[0]['device']})" in "".join(text.split())
        assert "has no profile" not in server.log.read_text()
    planned = {"r-profile": fast.subnets[0].p99_us, str(tmp_path / "slow.json"): slow.subnets[0].p99_us}
    assert {attempt["device"] for attempt in told} == planned.keys()
    for attempt in told:
        times = planned[attempt["device"]]
        size = next(index for index, batch in enumerate(fast.batches) if batch >= attempt["batch_rows"])
        assert attempt["planned_ms"] == pytest.approx(attempt["drift"] * times[size] / 1000, rel=1e-3)
        assert attempt["worker"] % 2 == (attempt["device"] != "r-profile")
        assert attempt["taken_ms"] > 0.8 * fast.subnets[0].p50_us[0] / 1000 * (1 if attempt["worker"] % 2 == 0 else 10)
