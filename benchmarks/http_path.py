"""What the front end and the router cost per request, with workers that answer at once.

A server with an in-process pool that takes no time runs on one core; a closed-loop client keeps a number of
connections busy from another. The figure to look at is the server's CPU time per request: it does not depend on how
busy the client's core is.

    python benchmarks/http_path.py [--seconds 5] [--connections 64] [--traced SHARE] [--profile] [--json FILE]

``--traced`` (with the extra `otel`) makes spans of so many of the requests, for a collector that takes no time.
"""

import argparse
import asyncio
import cProfile
import multiprocessing
import multiprocessing.connection
import os
import pstats
import signal
import time
from pathlib import Path
from typing import cast

import uvloop

from side_by_side import write
from superserve.clock import Clock, MonotonicClock
from superserve.frontend.http_server import HttpServer
from superserve.frontend.routes import V2Routes
from superserve.frontend.tracing import Tracing
from superserve.model_folder import ModelConfig, TensorSpec
from superserve.profile import Device, LatencyTable, Profile, SubnetProfile
from superserve.scheduling import Scheduler, create_policy
from superserve.serving.config import HttpConfig
from superserve.serving.dataplane import DataPlane, ServedModel
from superserve.serving.fake_pool import FakePool
from superserve.serving.pool import Batch
from superserve.serving.router import Router
from superserve.serving.shared_pool import SharedPool
from superserve.serving.tracing import RequestTracer

CONFIG = ModelConfig(
    format=1,
    name="noop",
    family="none",
    architecture={},
    task="none",
    dataset="none",
    labels=(),
    inputs=(TensorSpec("image", "UINT8", (-1, 32, 32, 3)),),
    outputs=(TensorSpec("logits", "FP32", (-1, 10)),),
    preprocessing={},
    max_batch_size=64,
)


def noop_profile() -> Profile:
    """One subnet that takes no time to speak of."""
    batches = tuple(1 << bit for bit in range(CONFIG.max_batch_size.bit_length()))
    row = (20.0,) * len(batches)
    subnet = SubnetProfile(id="noop", accuracy=100.0, p50_us=row, p95_us=row, p99_us=row)
    device = Device(name="noop", kind="cpu", threads=1, engine="noop", dtype="float32", torch="none")
    return Profile(device=device, model_hash="noop", batches=batches, dispatch_overhead_us=0.0, subnets=(subnet,))


def zeros(batch: Batch) -> list[bytes]:
    """Ten float zeros per row."""
    return [bytes(40 * batch.rows)]


def tracer(share: float, table: LatencyTable, clock: Clock) -> RequestTracer:
    """Spans that go nowhere."""
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter  # noqa: PLC0415

    exporter = InMemorySpanExporter()
    exporter.shutdown()  # it takes nothing from then on
    return Tracing(exporter, share, clock).of(CONFIG.name, table)


async def serve(ready: multiprocessing.connection.Connection, traced: float | None) -> None:
    """Serve until SIGTERM; tells the port, and at the end the CPU seconds used since."""
    loop = asyncio.get_running_loop()
    clock = MonotonicClock(loop)
    table = LatencyTable(noop_profile())
    pool = SharedPool(FakePool(2, zeros, clock, lambda _: 0), clock)
    scheduler = Scheduler(create_policy("fixed:largest", table), overhead_ns=0, shared=pool.workers)
    spans = None if traced is None else tracer(traced, table, clock)
    router = Router(scheduler, pool, clock, output_row_bytes=[40], tracer=spans)
    plane = DataPlane([ServedModel(CONFIG, router, slo_ms=1000.0, emulated=True)], version="0")
    server = HttpServer(V2Routes(plane), clock, HttpConfig())
    await router.start()
    await server.start("127.0.0.1", 0)
    stopped = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    before_s = time.process_time()
    ready.send(server.port)
    await stopped.wait()
    ready.send((time.process_time() - before_s, dict(router.outcomes)))
    await server.stop()
    await router.stop()


def server_process(ready: multiprocessing.connection.Connection, *, profile: bool, traced: float | None = None) -> None:
    """The server's process, on the first core."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    profiler = cProfile.Profile()
    if profile:
        profiler.enable()
    uvloop.run(serve(ready, traced))
    if profile:
        profiler.disable()
        pstats.Stats(profiler).sort_stats("tottime").print_stats(45)


def infer_message(request_id: str = "") -> bytes:
    """One infer request with a binary tensor, as tritonclient words it; with an id in its head and in its JSON."""
    spec = CONFIG.inputs[0]
    json = (
        b'{%b"inputs":[{"name":"%b","shape":[1,32,32,3],"datatype":"UINT8","parameters":{"binary_data_size":%d}}],'
        b'"parameters":{"binary_data_output":true}}'
        % (b'"id":"%b",' % request_id.encode() if request_id else b"", spec.name.encode(), spec.row_bytes)
    )
    return (
        b"POST /v2/models/noop/infer HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: */*\r\n%b"
        b"Content-Type: application/octet-stream\r\nInference-Header-Content-Length: %d\r\n"
        b"Content-Length: %d\r\n\r\n%b%b"
        % (
            b"x-request-id: %b\r\n" % request_id.encode() if request_id else b"",
            len(json),
            len(json) + spec.row_bytes,
            json,
            bytes(spec.row_bytes),
        )
    )


class Client(asyncio.Protocol):
    """One connection in a closed loop."""

    def __init__(self, message: bytes) -> None:
        self.message = message
        self.done = 0
        self.failed = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(self.message)

    def data_received(self, data: bytes) -> None:
        """Count the answer (they are small: one read each) and send the next request."""
        self.done += 1
        self.failed += not data.startswith(b"HTTP/1.1 200")
        self.transport.write(self.message)


async def load(port: int, connections: int, seconds: float) -> tuple[int, int, float]:
    """Requests answered, those with an error, and the seconds it took."""
    loop = asyncio.get_running_loop()
    message = infer_message()
    clients = [
        (await loop.create_connection(lambda: Client(message), "127.0.0.1", port))[1] for _ in range(connections)
    ]
    before_s = time.perf_counter()
    await asyncio.sleep(seconds)
    elapsed_s = time.perf_counter() - before_s
    done, failed = sum(client.done for client in clients), sum(client.failed for client in clients)
    for client in clients:
        client.transport.abort()
    return done, failed, elapsed_s


def main() -> None:
    """Run it and print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--traced", type=float, metavar="SHARE", help="make spans of so many of the requests")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON")
    options = parser.parse_args()
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(
        target=server_process,
        args=(theirs,),
        kwargs={"profile": options.profile, "traced": options.traced},
        daemon=True,
    )
    server.start()
    port = ours.recv()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    done, failed, elapsed_s = uvloop.run(load(port, options.connections, options.seconds))
    assert server.pid is not None
    os.kill(server.pid, signal.SIGTERM)
    cpu_s, outcomes = ours.recv()
    server.join()
    print(f"{done} requests ({failed} failed) in {elapsed_s:.2f} s: {done / elapsed_s:.0f} requests/s")
    print(f"server: {1e6 * cpu_s / done:.1f} us CPU per request, i.e. {done / cpu_s:.0f} requests/s and core")
    print({outcome.value: count for outcome, count in outcomes.items() if count})
    figures = {"requests_per_s": done / elapsed_s, "cpu_us_per_request": 1e6 * cpu_s / done, "failed": failed}
    write(options.json, [{"title": "HTTP path, no-op pool", "rows": figures}])


if __name__ == "__main__":
    main()
