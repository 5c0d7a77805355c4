"""Traces of a live server, as a collector of OpenTelemetry gets them."""

import http.client
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the extra 'otel' is not installed")

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from superserve.protocol.messages import INFERENCE, ModelInferRequest
from support.folders import write_digits_like_folder
from support.server_process import ServerProcess, serving

pytestmark = pytest.mark.integration

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


class Collector:
    """Takes traces over HTTP and keeps the spans."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.resources: list[dict[str, str]] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.path == "/v1/traces"
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector._take(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def _take(self, request: Any) -> None:
        for resource in request.resource_spans:
            self.resources.append({each.key: each.value.string_value for each in resource.resource.attributes})
            for scope in resource.scope_spans:
                self.spans += scope.spans

    def of(self, parent: str) -> list[Any]:
        """The spans whose parent has an id."""
        return [span for span in self.spans if span.parent_span_id.hex() == parent]


@pytest.fixture
def collector() -> Iterator[Collector]:
    taking = Collector()
    thread = threading.Thread(target=taking.server.serve_forever)
    thread.start()
    yield taking
    taking.server.shutdown()
    thread.join()
    taking.server.server_close()


def over_http(server: ServerProcess, traceparent: str) -> None:
    tensor = {"name": "image", "shape": [1, 8, 8], "datatype": "UINT8", "data": [0] * 64}
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    headers = {"traceparent": traceparent, "x-request-id": "traced"}
    connection.request("POST", "/v2/models/digits/infer", json.dumps({"inputs": [tensor]}), headers)
    assert connection.getresponse().status == 200
    connection.close()


def over_grpc(server: ServerProcess, traceparent: str) -> None:
    tensor = {"name": "image", "datatype": "UINT8", "shape": [1, 8, 8]}
    message = ModelInferRequest(model_name="digits", inputs=[tensor], raw_input_contents=[bytes(64)])
    with grpc.insecure_channel(server.grpc) as channel:
        call = channel.unary_unary(f"/{INFERENCE}/ModelInfer")
        call(message.SerializeToString(), metadata=(("traceparent", traceparent),), timeout=10)


def test_a_collector_gets_what_clients_trace_and_nothing_else(tmp_path: Path, collector: Collector) -> None:
    """Over both protocols, at the latest when the server ends."""
    folder = write_digits_like_folder(tmp_path / "digits")
    arguments = ("--workers", "1", "--slo-ms", "5000", "--otel-endpoint", collector.url, "--otel-sampled", "0")
    with serving(folder, *arguments, scratch=tmp_path) as server:
        for ask in (over_http, over_grpc):
            ask(server, f"00-{TRACE}-{PARENT}-01")
            ask(server, f"00-{TRACE}-{'1' * 16}-00")
        assert server.stop() == 0, server.log.read_text()
    requests = collector.of(PARENT)
    assert sorted(span.name for span in requests) == [
        "POST /v2/models/{model}/infer",
        "inference.GRPCInferenceService/ModelInfer",
    ]
    assert {span.trace_id.hex() for span in requests} == {TRACE}
    for request in requests:
        parts = collector.of(request.span_id.hex())
        assert [part.name.removeprefix("superserve.") for part in parts] == ["queue", "wait", "infer"]
        assert parts[-1].end_time_unix_nano <= request.end_time_unix_nano
    batches = [span for span in collector.spans if span.name == "superserve.batch"]
    assert {link.span_id for batch in batches for link in batch.links} == {span.span_id for span in requests}
    assert len(collector.spans) == 2 * 4 + 2
    assert collector.resources[0]["service.name"] == "superserve"


def test_a_collector_that_is_not_there_costs_traces_alone(tmp_path: Path) -> None:
    """Requests are answered, and the server ends in time."""
    folder = write_digits_like_folder(tmp_path / "digits")
    arguments = ("--workers", "1", "--slo-ms", "5000", "--otel-endpoint", "http://127.0.0.1:9", "--otel-sampled", "1")
    with serving(folder, *arguments, scratch=tmp_path) as server:
        over_http(server, f"00-{TRACE}-{PARENT}-01")
        assert server.stop() == 0, server.log.read_text()


def test_an_endpoint_that_is_none_is_a_usage_error(tmp_path: Path) -> None:
    """Before anything is started."""
    folder = write_digits_like_folder(tmp_path / "digits")
    command = [sys.executable, "-m", "superserve", "serve", str(folder), "--device", "emulated:r-profile"]
    ran = subprocess.run(
        [*command, "--http-port", "0", "--grpc-port", "0", "--metrics-port", "0", "--otel-endpoint", "collector"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 2
    assert "otel.endpoint" in ran.stderr
