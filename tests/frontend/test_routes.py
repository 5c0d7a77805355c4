import gc
import gzip
import json
import struct
import tracemalloc
from typing import Any

import pytest

from superserve.clock import NS_PER_MS, ManualClock, epoch_ms
from superserve.frontend.exchange import Exchange
from superserve.frontend.http_server import HttpServer
from superserve.frontend.routes import V2Routes
from superserve.request import Outcome
from superserve.serving.config import HttpConfig
from superserve.serving.dataplane import DataPlane
from superserve.serving.fake_pool import FakePool
from superserve.serving.ledger import Ledger
from superserve.serving.router import Pending
from support.serving import make_ledger, make_model, make_router
from support.transport import FakeTransport

INFER = "/v2/models/tiny/infer"

TENSORS = [
    {"name": "image", "shape": [1, 2, 2], "datatype": "UINT8", "data": [1, 2, 3, 4]},
    {"name": "scale", "shape": [1], "datatype": "FP32", "data": [0.5]},
]


class Bench:
    """A whole server without sockets, processes or real time."""

    def __init__(self, *, emulated: bool = False, max_queued: int = 100, ledger: Ledger | None = None) -> None:
        self.clock = ManualClock()
        self.pool = FakePool()
        self.router = make_router(self.pool, self.clock, max_queued=max_queued, ledger=ledger)
        plane = DataPlane([make_model(self.router, emulated=emulated)], version="9")
        self.server = HttpServer(V2Routes(plane), self.clock, HttpConfig())
        self.protocol = self.server.connection()
        self.transport = FakeTransport(self.protocol)
        self.protocol.connection_made(self.transport)

    async def started(self) -> "Bench":
        await self.router.start()
        return self

    def send(self, method: str, path: str, body: bytes = b"", **headers: str) -> None:
        lines = [f"{method} {path} HTTP/1.1", f"Content-Length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.protocol.data_received("\r\n".join((*lines, "", "")).encode() + body)

    def received(self) -> tuple[int, dict[str, str], bytes]:
        """The last response, which is forgotten."""
        head, _, body = self.transport.sent.partition(b"\r\n\r\n")
        self.transport.written.clear()
        status, *lines = head.decode().split("\r\n")
        return int(status.split()[1]), dict(line.lower().split(": ", 1) for line in lines), body

    def ask(self, method: str, path: str, message: object = None, **headers: str) -> tuple[int, Any]:
        """Send a request with a JSON body, run what it launches, and return status and JSON."""
        self.send(method, path, b"" if message is None else json.dumps(message).encode(), **headers)
        while self.pool.running:
            self.pool.finish(0)
        status, found, body = self.received()
        assert found["x-request-id"]
        assert int(found["content-length"]) == len(body) or method == "HEAD"
        return status, json.loads(body) if body else None


@pytest.mark.parametrize("prefix", ["/v2/models/tiny", "/v2/models/tiny/versions/1", "/v2/models/%74iny"])
async def test_a_model_is_found_with_and_without_a_version(prefix: str) -> None:
    """Metadata, readiness and inference, under each spelling of its path."""
    bench = await Bench().started()
    status, metadata = bench.ask("GET", prefix)
    assert (status, metadata["name"], metadata["versions"]) == (200, "tiny", ["1"])
    assert metadata["inputs"][0] == {"name": "image", "datatype": "UINT8", "shape": [-1, 2, 2]}
    assert bench.ask("GET", f"{prefix}/ready") == (200, {"name": "tiny", "ready": True})
    assert bench.ask("POST", f"{prefix}/infer", {"inputs": TENSORS})[0] == 200


async def test_health_and_server_metadata() -> None:
    """Live from the start; ready when workers are warm."""
    bench = Bench()
    assert bench.ask("GET", "/v2/health/live") == (200, {"live": True})
    assert bench.ask("GET", "/v2/health/ready") == (503, {"ready": False})
    assert bench.ask("GET", "/v2/models/tiny/ready") == (503, {"name": "tiny", "ready": False})
    await bench.started()
    assert bench.ask("GET", "/v2/health/ready?verbose=1") == (200, {"ready": True})
    status, metadata = bench.ask("GET", "/v2")
    assert (status, metadata["name"], metadata["version"]) == (200, "superserve", "9")
    assert "binary_tensor_data" in metadata["extensions"]


@pytest.mark.parametrize("path", ["/v2/models/tiny/config", "/v2/models/tiny/versions/1/config"])
async def test_the_configuration_is_what_perf_analyzer_reads(path: str) -> None:
    """Triton's names; dims leave out the rows, and a tensor of numbers has one of them."""
    status, config = (await Bench().started()).ask("GET", path)
    assert status == 200
    assert config == {
        "name": "tiny",
        "platform": "superserve_torch",
        "backend": "superserve",
        "max_batch_size": 4,
        "input": [
            {"name": "image", "data_type": "TYPE_UINT8", "dims": [2, 2]},
            {"name": "scale", "data_type": "TYPE_FP32", "dims": [1]},
        ],
        "output": [
            {"name": "pixels", "data_type": "TYPE_UINT8", "dims": [2, 2]},
            {"name": "factor", "data_type": "TYPE_FP32", "dims": [1]},
        ],
        "dynamic_batching": {
            "default_queue_policy": {
                "timeout_action": "REJECT",
                "default_timeout_microseconds": 50_000,
                "allow_timeout_override": True,
                "max_queue_size": 100,
            }
        },
    }


async def test_statistics_count_what_was_done() -> None:
    """Of one model and of all; requests are charged with the time of their batch."""
    bench = await Bench().started()
    request = json.dumps({"inputs": TENSORS}).encode()
    for _ in range(3):
        bench.send("POST", INFER, request)
    bench.clock.advance(2 * NS_PER_MS)
    bench.pool.finish(0)  # the first one alone; the other two waited
    bench.clock.advance(3 * NS_PER_MS)
    bench.pool.finish(0)
    bench.transport.written.clear()
    assert bench.ask("POST", INFER, {"inputs": TENSORS, "parameters": {"timeout": 900}})[0] == 504
    status, report = bench.ask("GET", "/v2/models/tiny/stats")
    assert (status, report) == bench.ask("GET", "/v2/models/stats")
    assert (status, report) == bench.ask("GET", "/v2/models/tiny/versions/1/stats")
    (model,) = report["model_stats"]
    assert (model["name"], model["version"], model["inference_count"], model["execution_count"]) == ("tiny", "1", 3, 2)
    stats = model["inference_stats"]
    assert stats["success"] == {"count": 3, "ns": (2 + 5 + 5) * NS_PER_MS}
    assert stats["queue"] == {"count": 3, "ns": (2 + 2) * NS_PER_MS}
    assert stats["compute_infer"] == {"count": 3, "ns": 3 * NS_PER_MS}  # 1 ms says the pool, for each
    assert stats["compute_output"] == {"count": 3, "ns": (1 + 2 + 2) * NS_PER_MS}
    assert stats["fail"] == {"count": 1, "ns": 0}
    assert stats["cache_hit"] == {"count": 0, "ns": 0}
    batches = [(batch["batch_size"], batch["compute_infer"]) for batch in model["batch_stats"]]
    assert batches == [(1, {"count": 1, "ns": NS_PER_MS}), (2, {"count": 1, "ns": NS_PER_MS})]


async def test_statistics_date_the_last_inference() -> None:
    """In milliseconds since 1970; 0 before there was any."""
    bench = await Bench().started()
    found = [bench.ask("GET", "/v2/models/stats")[1]["model_stats"][0]["last_inference"]]
    before_ms = epoch_ms()
    bench.ask("POST", INFER, {"inputs": TENSORS})
    found.append(bench.ask("GET", "/v2/models/stats")[1]["model_stats"][0]["last_inference"])
    assert found[0] == 0
    assert before_ms <= found[1] <= epoch_ms()


async def test_infer_compressed_both_ways() -> None:
    """The length of the JSON is that of the plain body, in both directions."""
    bench = await Bench().started()
    inputs = [
        {"name": "image", "shape": [1, 2, 2], "datatype": "UINT8", "parameters": {"binary_data_size": 4}},
        {"name": "scale", "shape": [1], "datatype": "FP32", "data": [0.5]},
    ]
    text = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    bench.send(
        "POST",
        INFER,
        gzip.compress(text + bytes(range(4))),
        Content_Encoding="gzip",
        Accept_Encoding="gzip",
        inference_header_content_length=str(len(text)),
    )
    bench.pool.finish(0)
    status, headers, body = bench.received()
    assert (status, headers["content-encoding"]) == (200, "gzip")
    plain = gzip.decompress(body)
    length = int(headers["inference-header-content-length"])
    assert json.loads(plain[:length])["outputs"][0]["name"] == "pixels"
    assert plain[length:] == bytes(range(4)) + struct.pack("<f", 0.5)


async def test_infer_in_json() -> None:
    """Every parameter of a response, the id, and the outputs as data."""
    bench = await Bench(emulated=True).started()
    status, answer = bench.ask("POST", INFER, {"id": "me", "inputs": TENSORS})
    assert status == 200
    assert answer == {
        "model_name": "tiny",
        "model_version": "1",
        "id": "me",
        "parameters": {
            "superserve_subnet": "s1",
            "superserve_accuracy": 71.0,
            "superserve_emulated": True,
            "superserve_batch_size": 1,
            "superserve_decode_us": 0,
            "superserve_queue_us": 0,
            "superserve_wait_us": 0,
            "superserve_infer_us": 1000,
            "slo_met": True,
        },
        "outputs": [
            {"name": "pixels", "datatype": "UINT8", "shape": [1, 2, 2], "data": [1, 2, 3, 4]},
            {"name": "factor", "datatype": "FP32", "shape": [1], "data": [0.5]},
        ],
    }


async def test_infer_with_binary_tensors() -> None:
    """In and out, without any JSON of a number."""
    bench = await Bench().started()
    inputs = [
        {"name": "scale", "shape": [2], "datatype": "FP32", "parameters": {"binary_data_size": 8}},
        {"name": "image", "shape": [2, 2, 2], "datatype": "UINT8", "parameters": {"binary_data_size": 8}},
    ]
    text = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    scales = struct.pack("<ff", 1, 2)
    bench.send("POST", INFER, text + scales + bytes(range(8)), inference_header_content_length=str(len(text)))
    bench.pool.finish(0)
    status, headers, body = bench.received()
    length = int(headers["inference-header-content-length"])
    assert (status, headers["content-type"]) == (200, "application/octet-stream")
    assert [output["name"] for output in json.loads(body[:length])["outputs"]] == ["pixels", "factor"]
    assert body[length:] == bytes(range(8)) + scales


@pytest.mark.parametrize(
    ("message", "pattern"),
    [
        ({}, "inputs"),
        ({"inputs": TENSORS[:1]}, "missing: ['scale']"),
        ({"inputs": [TENSORS[0] | {"shape": [4]}, TENSORS[1]]}, "'image': shape"),
        ({"inputs": [TENSORS[0] | {"datatype": "INT8"}, TENSORS[1]]}, "'image': datatype"),
        ({"inputs": [TENSORS[0] | {"data": [1]}, TENSORS[1]]}, "'image': data"),
        ({"inputs": TENSORS, "outputs": [{"name": "what"}]}, "'what' is unknown"),
        ({"inputs": TENSORS, "parameters": {"superserve_min_accuracy": 71.5}}, "71.5 is above 71"),
        ({"inputs": TENSORS, "parameters": {"timeout": -5}}, "timeout"),
    ],
)
async def test_bad_requests_are_told_why_and_hurt_nobody(message: dict[str, Any], pattern: str) -> None:
    """400, the field by name; the same connection serves the next request."""
    bench = await Bench().started()
    status, answer = bench.ask("POST", INFER, message)
    assert status == 400
    assert pattern in answer["error"]
    assert bench.pool.running == {}
    assert bench.ask("POST", INFER, {"inputs": TENSORS})[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "pattern"),
    [
        ("GET", "/", 404, "/v2"),
        ("GET", "/v2/", 404, "/v2"),
        ("GET", "/v2/models", 404, "/v2"),
        ("GET", "/v2/models/", 404, "/v2"),
        ("GET", "/v2/models//ready", 404, "/v2"),
        ("GET", "/v2/models/huge", 404, "'huge' is not served here; served: tiny"),
        ("GET", "/v2/models/tiny/versions/2", 404, "'2'"),
        ("POST", "/v2/models/huge/infer", 404, "'huge'"),
        ("GET", INFER, 405, "POST"),
        ("DELETE", "/v2", 405, "GET, HEAD"),
    ],
)
async def test_what_is_not_there(method: str, path: str, status: int, pattern: str) -> None:
    """404 for paths, models and versions, 405 with the right method."""
    bench = await Bench().started()
    found, answer = bench.ask(method, path)
    assert found == status
    assert pattern in answer["error"]


async def test_statuses_of_the_schedulers_refusals() -> None:
    """Infeasible 504, full 429 with a time, expired 504 when it is certain, stopping 503."""
    bench = await Bench(max_queued=1).started()
    request = json.dumps({"inputs": TENSORS}).encode()
    assert bench.ask("POST", INFER, {"inputs": TENSORS, "parameters": {"timeout": 900}})[0] == 504
    assert bench.ask("POST", INFER, {"inputs": TENSORS}, x_slo_ms="0.9")[0] == 504
    bench.send("POST", INFER, request)
    bench.send("POST", INFER, request, x_slo_ms="20")
    bench.send("POST", INFER, request)
    bench.pool.finish(0)
    bench.pool.finish(0)
    sent = bench.transport.sent
    assert [sent.count(b"HTTP/1.1 %d" % status) for status in (200, 429)] == [2, 1]
    assert b"Retry-After: 1\r\n" in sent
    bench.transport.written.clear()
    bench.send("POST", INFER, request)
    bench.send("POST", INFER, request, x_slo_ms="20")
    bench.clock.advance(20 * NS_PER_MS)
    bench.pool.finish(0)
    assert bench.transport.sent.count(b"HTTP/1.1 504") == 1
    bench.transport.written.clear()
    await bench.router.drain(1.0)
    assert bench.ask("POST", INFER, {"inputs": TENSORS})[0] == 503
    assert bench.ask("GET", "/v2/health/ready")[0] == 503


async def test_a_worker_failure_is_500() -> None:
    """For the requests of the batch."""
    bench = await Bench().started()
    bench.send("POST", INFER, json.dumps({"inputs": TENSORS}).encode())
    bench.pool.fail(0)
    assert bench.received()[0] == 500


async def test_a_client_that_leaves_takes_its_request_out_of_the_queue() -> None:
    """What has not been launched never will be."""
    bench = await Bench().started()
    request = json.dumps({"inputs": TENSORS}).encode()
    for _ in range(3):
        bench.send("POST", INFER, request)
    bench.protocol.connection_lost(None)
    bench.pool.finish(0)
    assert len(bench.pool.launched) == 1
    assert bench.router.outcomes[Outcome.CANCELLED] == 3


@pytest.mark.parametrize("end", ["answered", "failed", "client gone", "refused"])
async def test_a_request_that_has_ended_waits_for_no_garbage_collection(end: str) -> None:
    """Bodies are large: memory must not depend on when the collector comes round."""
    bench = await Bench(max_queued=0 if end == "refused" else 100).started()
    gc.collect()
    gc.disable()
    try:
        before = _requests()
        bench.send("POST", INFER, json.dumps({"inputs": TENSORS}).encode())
        if end == "client gone":
            bench.protocol.connection_lost(None)
        elif end != "refused":
            (bench.pool.finish if end == "answered" else bench.pool.fail)(0)
        assert bench.router.outcomes[_ENDS[end]] == 1
        assert _requests() <= before  # what other tests left may go meanwhile
    finally:
        gc.enable()


_ENDS = {
    "answered": Outcome.SERVED,
    "failed": Outcome.FAILED,
    "client gone": Outcome.CANCELLED,
    "refused": Outcome.REJECTED,
}


def _requests() -> set[int]:
    """Which of them are in memory, and which hold tensors."""
    found = [one for one in gc.get_objects() if type(one) in (Exchange, Pending)]  # others dislike being asked
    return {id(one) for one in found if isinstance(one, Exchange) or one.inputs}


async def test_ever_new_paths_do_not_fill_the_memory() -> None:
    """Paths are remembered up to a limit."""
    bench = await Bench().started()
    for number in range(3000):
        bench.send("GET", f"/v2/models/m{number}")
    routes = bench.server._handler
    assert isinstance(routes, V2Routes)
    assert len(routes._remembered) <= 1024


async def test_long_paths_are_served_but_not_remembered() -> None:
    """They would fill the memory, a thousand of them with 32 KiB each."""
    bench = await Bench().started()
    bench.ask("GET", "/v2/models/tiny/ready")
    tracemalloc.start()
    for number in range(50):
        status, answer = bench.ask("GET", f"/v2/models/tiny/ready?{'x' * 20_000}{number}")
        assert (status, answer["ready"]) == (200, True)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 500_000


async def test_a_request_is_explained_by_its_id() -> None:
    """One by the id that its answer carried, the latest as a list; what is not remembered is 404."""
    bench = await Bench().started()
    assert bench.ask("POST", INFER, {"inputs": TENSORS}, x_request_id="r:1")[0] == 200
    bench.ask("POST", INFER, {"inputs": TENSORS, "parameters": {"timeout": 900}}, x_request_id="r:2")
    status, told = bench.ask("GET", "/v2/decisions/r:1")
    assert (status, told["outcome"], told["attempts"][0]["subnet"]) == (200, "served", "s1")
    assert bench.ask("GET", "/v2/decisions/r%3A2")[1]["reason"] == "deadline infeasible on arrival"
    status, latest = bench.ask("GET", "/v2/decisions")
    assert (status, [course["request_id"] for course in latest]) == (200, ["r:2", "r:1"])
    status, error = bench.ask("GET", "/v2/decisions/r:3")
    assert (status, "'r:3'" in error["error"]) == (404, True)
    assert bench.ask("POST", "/v2/decisions/r:1")[0] == 405


async def test_the_ledger_is_told_if_it_is_kept() -> None:
    """What degraded answers cost, after some idle time; without a ledger there is nothing to tell: 501."""
    bench = await Bench(ledger=make_ledger()).started()
    assert bench.ask("POST", INFER, {"inputs": TENSORS, "parameters": {"timeout": 3_000}})[0] == 200
    bench.clock.advance(100 * NS_PER_MS)
    assert bench.pool.running
    bench.pool.finish(0)
    status, (told,) = bench.ask("GET", "/v2/ledger")
    assert (status, told["model"], told["reference"], told["waiting"]) == (200, "tiny", "s1", 0)
    (row,) = told["rows"]
    assert (row["subnet"], row["answered"], row["compared"], row["agreement"]) == ("s0", 1, 1, 100.0)
    status, error = Bench().ask("GET", "/v2/ledger")
    assert (status, "--ledger" in error["error"]) == (501, True)
