"""What a model that is loaded and unloaded costs the requests of one that is served meanwhile.

One worker serves a model at a steady rate; a copy of the model is loaded from a repository and unloaded again, over and
over, with pauses. Latencies, from when a request was due to be sent, are told apart by what was under way: nothing, a
load, or an unload. So all of them are from the same minute of the same machine.

Run: ``python benchmarks/model_loading.py [--model digits] [--device cpu] [--rate 100] [--rounds 5] [--json FILE]``.
"""

import argparse
import http.client
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from side_by_side import write
from superserve.clock import NS_PER_MS, NS_PER_S, monotonic_ns, sleep_until_ns
from superserve.experiments.server_process import RunningServer
from superserve.frontend.deployment import choose_profile
from superserve.model_folder import ModelFolder, write_json
from superserve.profiler import save_profile
from superserve.serving.choice import choose_engine
from superserve.serving.devices import emulated_profile

PAUSE_S = 3.0
SLO_MS = "1000"
NOTHING = "nothing"


class Span(NamedTuple):
    """A change of the server, and when it was under way."""

    what: str
    start_ns: int
    end_ns: int


def copied(folder: ModelFolder, repository: Path, device: str) -> str:
    """A copy of a model under another name, with a profile; the name."""
    name = f"{folder.config.name}-copy"
    shutil.copytree(folder.path, repository / name, ignore=shutil.ignore_patterns("profiles"))
    write_json(repository / name / "config.json", msgspec.structs.replace(folder.config, name=name))
    if emulated_profile(device) is None:
        copy = ModelFolder(repository / name)
        profile = choose_profile(folder, choose_engine(folder, device, "eager"))
        save_profile(copy, msgspec.structs.replace(profile, model_hash=copy.model_hash))
    return name


@contextmanager
def served(model: str, device: str, repository: Path) -> Iterator[int]:
    """A server with one worker; its port."""
    ready = repository.parent / "ready.json"
    command = [sys.executable, "-m", "superserve", "serve", model, "--device", device, "--workers", "1"]
    command += ["--engine", "eager"] if emulated_profile(device) is None else []
    command += [
        "--http-port",
        "0",
        "--grpc-port",
        "0",
        "--metrics-port",
        "0",
        "--slo-ms",
        SLO_MS,
        "--ready-file",
        str(ready),
    ]
    with subprocess.Popen([*command, "--model-repository", str(repository)], stderr=subprocess.DEVNULL) as process:
        try:
            while not ready.exists():
                assert process.poll() is None, "the server has ended"
                time.sleep(0.05)
            server = msgspec.json.decode(ready.read_bytes(), type=RunningServer)
            yield int(server.url.rpartition(":")[2])
        finally:
            process.terminate()


def call(port: int, path: str, body: bytes = b"{}") -> bytes:
    """A call that must succeed."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    connection.request("POST", path, body)
    response = connection.getresponse()
    answer = response.read()
    assert response.status == 200, answer
    connection.close()
    return answer


class Load(threading.Thread):
    """Requests of one row at a steady rate, on one connection, until it is told to stop."""

    def __init__(self, port: int, folder: ModelFolder, rate: float) -> None:
        super().__init__()
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        self._path = f"/v2/models/{folder.config.name}/infer"
        tensors = [
            {
                "name": spec.name,
                "datatype": spec.datatype,
                "shape": [1, *spec.row_shape],
                "data": np.zeros(spec.row_shape, spec.dtype).ravel().tolist(),
            }
            for spec in folder.config.inputs
        ]
        self._body = json.dumps({"inputs": tensors}).encode()
        self._gap_ns = round(NS_PER_S / rate)
        self.stopped = threading.Event()
        self.latencies: list[tuple[int, float]] = []
        """When a request was due to be sent, and milliseconds from then to its answer."""

    def run(self) -> None:
        """See `threading.Thread.run`."""
        due_ns = monotonic_ns()
        while not self.stopped.is_set():
            sleep_until_ns(due_ns)
            self._connection.request("POST", self._path, self._body)
            response = self._connection.getresponse()
            answer = response.read()
            assert response.status == 200, answer
            self.latencies.append((due_ns, (monotonic_ns() - due_ns) / NS_PER_MS))
            due_ns += self._gap_ns


def changes(port: int, name: str, rounds: int) -> list[Span]:
    """Load and unload a model a few times, with pauses around each."""
    spans = []
    for _ in range(rounds):
        for what in ("load", "unload"):
            time.sleep(PAUSE_S)
            start_ns = monotonic_ns()
            call(port, f"/v2/repository/models/{name}/{what}")
            spans.append(Span(what, start_ns, monotonic_ns()))
    time.sleep(PAUSE_S)
    return spans


def figures(latencies: list[tuple[int, float]], spans: list[Span]) -> dict[str, dict[str, float]]:
    """Percentiles by what was under way when a request was due."""
    sorted_out: dict[str, list[float]] = {NOTHING: [], "load": [], "unload": []}
    for due_ns, latency_ms in latencies:
        under_way = next((span.what for span in spans if span.start_ns <= due_ns <= span.end_ns), NOTHING)
        sorted_out[under_way].append(latency_ms)
    rows = {}
    for what, values in sorted_out.items():
        p50, p99 = np.percentile(values, [50, 99])
        took = [(span.end_ns - span.start_ns) / NS_PER_S for span in spans if span.what == what]
        rows[what] = {
            "requests": len(values),
            "p50_ms": float(p50),
            "p99_ms": float(p99),
            "max_ms": max(values),
            "median_s": float(np.median(took)) if took else 0.0,
        }
        print(f"  {what:<8}" + "".join(f"{key} {value:8.2f}  " for key, value in rows[what].items()))
    return rows


def measure(model: str, device: str, rate: float, rounds: int) -> dict[str, Any]:
    """One device."""
    folder = ModelFolder.resolve(model)
    with tempfile.TemporaryDirectory() as scratch:
        repository = Path(scratch) / "models"
        repository.mkdir()
        name = copied(folder, repository, device)
        with served(model, device, repository) as port:
            load = Load(port, folder, rate)
            load.start()
            try:
                spans = changes(port, name, rounds)
            finally:
                load.stopped.set()
                load.join()
    print(f"\n{model} on {device}, {rate:g} requests/s, one worker; another model meanwhile:")
    return {"title": f"{model} on {device}", "rows": figures(load.latencies, spans)}


def main() -> None:
    """Measure a real device and an emulated one."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--model", default="digits")
    parser.add_argument("--device", nargs="+", default=["cpu", "emulated:r-profile"])
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    write(options.json, [measure(options.model, device, options.rate, options.rounds) for device in options.device])


if __name__ == "__main__":
    main()
