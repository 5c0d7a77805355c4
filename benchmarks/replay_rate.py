"""What one core of the open-loop generator can send, and how precisely: against a server that runs no model.

Run: ``python benchmarks/replay_rate.py [--json FILE]``. The server has the last core to itself, the generator the
first. Each request carries 3 kB, as an image of 32 x 32 x 3 bytes.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from side_by_side import json_argument, write
from superserve.client.examples import Examples
from superserve.client.replay import replay
from superserve.client.replay_process import allow_many_connections
from superserve.clock import NS_PER_MS, NS_PER_S
from superserve.metrics import summarise
from superserve.traces.arrivals import poisson

SERVER = Path(__file__).parent.parent / "tests" / "support" / "v2_echo_server.py"
SECONDS = 5.0
RATES = (500.0, 2000.0, 5000.0, 10000.0, 15000.0, 20000.0)


def measure_rate(url: str, rate: float) -> dict[str, Any]:
    """One run, one line of the table."""
    rng = np.random.default_rng(0)
    images = tuple({"x": rng.integers(0, 256, (1, 3072), dtype=np.uint8)} for _ in range(256))
    examples = Examples(images, rng.integers(0, 10, 256))
    trace = poisson(rate, SECONDS, rng)
    result = uvloop.run(replay(trace, url, "m", examples, slo_ms=50.0, seed=0))
    row = summarise(result.log, policy="-", trace=trace.name, seed=0, workers=0, slo_ms=50.0)
    p50, p99, top = (float(np.quantile(result.lateness_ns, q)) / NS_PER_MS for q in (0.5, 0.99, 1.0))
    seconds = float(result.log.end_ns.max()) / NS_PER_S
    cpu_us = 1e6 * result.cpu_share * seconds / len(trace)
    print(
        f"  {rate:8.0f}/s  in {seconds:5.2f} s  cpu {result.cpu_share:5.1%} {cpu_us:6.1f} us/request  lateness ms p50 "
        f"{p50:.3f} p99 {p99:.3f} max {top:.2f}  latency ms p50 {row.p50_ms:.2f} p99 {row.p99_ms:.2f}"
    )
    return {
        "rate": rate,
        "achieved_rate": len(trace) / seconds,
        "cpu_share": result.cpu_share,
        "cpu_us_per_request": cpu_us,
        "lateness_ms": {"p50": p50, "p99": p99, "max": top},
        "latency_ms": {"p50": row.p50_ms, "p99": row.p99_ms},
        "slo_attainment_50_ms": row.slo_attainment,
    }


def main() -> None:
    """All rates."""
    out = json_argument(__doc__ or "")
    allow_many_connections()
    cores = sorted(os.sched_getaffinity(0))
    server = subprocess.Popen(
        ["taskset", "-c", str(cores[-1]), sys.executable, str(SERVER)],  # noqa: S607  (taskset is part of every Linux)
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        os.sched_setaffinity(0, {cores[0]})
        print("open-loop generator, Poisson arrivals of 3 kB requests")
        rows = [measure_rate(url, rate) for rate in RATES]
        write(out, [{"title": "open-loop generator", "rows": rows}])
    finally:
        server.kill()
        server.communicate()


if __name__ == "__main__":
    main()
