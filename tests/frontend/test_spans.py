"""The spans of requests: how they hang together, what they say, and which there are."""

import pytest

pytest.importorskip("opentelemetry.sdk.trace", reason="the extra 'otel' is not installed: pip install superserve[otel]")

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, ParentBasedTraceIdRatio, Sampler
from opentelemetry.trace import SpanContext, SpanKind, StatusCode

from superserve.clock import NS_PER_MS, ManualClock, epoch_ns
from superserve.frontend.spans import ModelSpans
from superserve.profile import LatencyTable
from superserve.serving.fake_pool import FakePool
from superserve.serving.router import Pending, Router
from superserve.serving.tracing import GRPC, GRPC_STREAM, HTTP, Origin
from support.serving import PROFILE, Recorder, make_router

TRACE, PARENT = 0x4BF92F3577B34DA6A3CE929D0E0E4736, 0x00F067AA0BA902B7
SAMPLED, UNSAMPLED = f"00-{TRACE:032x}-{PARENT:016x}-01", f"00-{TRACE:032x}-{PARENT:016x}-00"


class Bench:
    """A traced router over a fake pool in virtual time, and what it exports."""

    def __init__(self, sampler: Sampler = ALWAYS_ON, *, workers: int = 1, share: float | None = None) -> None:
        self.clock = ManualClock(start_ns=1_000 * NS_PER_MS)
        self.pool = FakePool(workers)
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        table = LatencyTable(PROFILE)
        spans = ModelSpans(provider, sampler, model="tiny", table=table, clock=self.clock, share=share)
        self.router: Router = make_router(self.pool, self.clock, tracer=spans)

    async def started(self) -> "Bench":
        await self.router.start()
        return self

    def submit(self, request_id: str = "r", *, timeout_ms: float = 50.0, origin: Origin = HTTP) -> Pending:
        now_ns = self.clock.now_ns()
        return self.router.submit(
            arrival_ns=now_ns,
            deadline_ns=now_ns + int(timeout_ms * NS_PER_MS),
            rows=1,
            min_accuracy=0.0,
            priority=0,
            inputs=[bytes(4), bytes(4)],
            responder=Recorder(),
            request_id=request_id.encode(),
            origin=origin,
        )

    def spans(self) -> dict[str, list[ReadableSpan]]:
        found: dict[str, list[ReadableSpan]] = {}
        for span in self.exporter.get_finished_spans():
            found.setdefault(span.name, []).append(span)
        return found

    def only(self, name: str) -> ReadableSpan:
        (span,) = self.spans()[name]
        return span


def milliseconds(span: ReadableSpan) -> float:
    assert span.start_time is not None
    assert span.end_time is not None
    return (span.end_time - span.start_time) / NS_PER_MS


def attributes(span: ReadableSpan) -> dict[str, object]:
    return dict(span.attributes or {})


def context(span: ReadableSpan) -> SpanContext:
    found = span.get_span_context()
    assert found is not None
    return found


def span_id(span: ReadableSpan) -> int:
    return context(span).span_id


INFER = "POST /v2/models/{model}/infer"


async def test_an_answered_request_says_where_its_time_went() -> None:
    """Queue, wait and infer follow one another inside the request's span and take what was measured."""
    bench = await Bench().started()
    bench.submit("first")
    bench.submit("second")  # waits behind the first
    bench.clock.advance(5 * NS_PER_MS)
    bench.pool.finish(0, infer_ns=4 * NS_PER_MS)
    bench.exporter.clear()
    bench.clock.advance(6 * NS_PER_MS)
    bench.pool.finish(0, infer_ns=4 * NS_PER_MS)
    request = bench.only(INFER)
    parts = [bench.only(f"superserve.{part}") for part in ("queue", "wait", "infer")]
    assert [milliseconds(part) for part in parts] == [5.0, 2.0, 4.0]
    assert milliseconds(request) == 11.0
    assert [part.start_time for part in parts] == [request.start_time, parts[0].end_time, parts[1].end_time]
    assert {part.parent.span_id for part in parts if part.parent} == {span_id(request)}
    assert request.kind is SpanKind.SERVER
    assert request.parent is None


async def test_spans_are_dated_by_the_wall_clock() -> None:
    """Collectors know nothing of the clock that stamps requests."""
    bench = await Bench().started()
    bench.submit()
    bench.clock.advance(5 * NS_PER_MS)
    bench.pool.finish(0)
    ended_ns = bench.only(INFER).end_time
    assert ended_ns is not None
    assert abs(epoch_ns() - ended_ns) < 60_000 * NS_PER_MS


async def test_an_answered_request_says_what_it_got() -> None:
    """Subnet, accuracy, batch, outcome and slack; the protocol's own attributes by OpenTelemetry's names."""
    bench = await Bench().started()
    bench.submit("abc", timeout_ms=50.0)
    bench.clock.advance(5 * NS_PER_MS)
    bench.pool.finish(0)
    told = attributes(bench.only(INFER))
    table = LatencyTable(PROFILE)
    assert told == {
        "http.request.method": "POST",
        "http.route": "/v2/models/{model}/infer",
        "http.response.status_code": 200,
        "superserve.model": "tiny",
        "superserve.request_id": "abc",
        "superserve.outcome": "served",
        "superserve.rows": 1,
        "superserve.deadline_ms": 50.0,
        "superserve.slack_ms": 45.0,
        "superserve.lost_workers": 0,
        "superserve.subnet": table.ids[1],
        "superserve.accuracy": table.accuracies[1],
        "superserve.batch_size": 1,
    }


async def test_a_batch_is_linked_to_its_requests_and_they_to_it() -> None:
    """It is in nobody's trace: with several requests it would be in each."""
    bench = await Bench().started()
    bench.submit("alone")
    bench.submit("one")
    bench.submit("two")
    bench.clock.advance(5 * NS_PER_MS)
    bench.pool.finish(0)
    bench.exporter.clear()
    bench.clock.advance(5 * NS_PER_MS)
    bench.pool.finish(0)
    batch = bench.only("superserve.batch")
    requests = bench.spans()[INFER]
    assert batch.parent is None
    assert {link.context.span_id for link in batch.links} == {span_id(request) for request in requests}
    assert len(batch.links) == 2
    inferred = bench.spans()["superserve.infer"]
    assert [link.context.span_id for span in inferred for link in span.links] == [span_id(batch)] * 2
    told = attributes(batch)
    assert (told["superserve.requests"], told["superserve.batch_size"], told["superserve.worker"]) == (2, 2, 0)
    assert told["superserve.bound"] in {"slack", "nothing"}


@pytest.mark.parametrize(
    ("call", "name", "status"),
    [
        (HTTP, INFER, "http.response.status_code"),
        (GRPC, "inference.GRPCInferenceService/ModelInfer", "rpc.response.status_code"),
        (GRPC_STREAM, "inference.GRPCInferenceService/ModelStreamInfer", "rpc.response.status_code"),
    ],
)
async def test_a_clients_trace_goes_on(call: Origin, name: str, status: str) -> None:
    """The span is its parent's child, in its trace, whatever the protocol."""
    bench = await Bench(ParentBased(ALWAYS_OFF)).started()
    bench.submit(origin=call.within(SAMPLED))
    bench.clock.advance(NS_PER_MS)
    bench.pool.finish(0)
    span = bench.only(name)
    assert context(span).trace_id == TRACE
    assert span.parent is not None
    assert span.parent.span_id == PARENT
    assert status in attributes(span)


@pytest.mark.parametrize("traceparent", [None, UNSAMPLED, "", "rubbish", SAMPLED + "x" * 10_000, "00-0-0-01"])
async def test_what_is_not_sampled_leaves_nothing(traceparent: str | None) -> None:
    """Neither a request whose client traces but does not want this one, nor one whose header is no such thing."""
    bench = await Bench(ParentBased(ALWAYS_OFF)).started()
    bench.submit(origin=HTTP.within(traceparent))
    bench.clock.advance(NS_PER_MS)
    bench.pool.finish(0)
    bench.submit(origin=HTTP.within(traceparent), timeout_ms=0.1)  # refused
    assert not bench.exporter.get_finished_spans()


@pytest.mark.parametrize(("share", "least", "most"), [(0.0, 0, 0), (0.5, 60, 140), (1.0, 200, 200)])
async def test_a_share_of_those_that_nobody_traces(share: float, least: int, most: int) -> None:
    """As the sampler would choose; within more than five standard deviations."""
    bench = await Bench(ParentBasedTraceIdRatio(share), share=share).started()
    for _ in range(200):
        bench.submit()
        bench.clock.advance(NS_PER_MS)
        bench.pool.finish(0)
    assert least <= len(bench.spans().get(INFER, [])) <= most
    bench.submit("wanted", origin=HTTP.within(SAMPLED))
    bench.clock.advance(NS_PER_MS)
    bench.pool.finish(0)
    assert "wanted" in {attributes(span)["superserve.request_id"] for span in bench.spans()[INFER]}


async def test_the_batch_of_one_sampled_request_is_traced_with_it_alone() -> None:
    """Its batch-mates, which nobody wants, are not linked."""
    bench = await Bench(ParentBased(ALWAYS_OFF)).started()
    bench.submit()
    bench.submit("wanted", origin=HTTP.within(SAMPLED))
    bench.submit("unwanted")
    for _ in range(2):
        bench.clock.advance(5 * NS_PER_MS)
        bench.pool.finish(0)
    batch = bench.only("superserve.batch")
    assert [link.context.span_id for link in batch.links] == [span_id(bench.only(INFER))]
    assert attributes(batch)["superserve.requests"] == 2


async def test_a_refusal_says_why_and_is_an_error_of_the_servers() -> None:
    """As HTTP's conventions have it for 5xx."""
    bench = await Bench().started()
    bench.submit(timeout_ms=0.1)
    span = bench.only(INFER)
    told = attributes(span)
    assert (told["superserve.outcome"], told["superserve.reason"]) == ("rejected", "infeasible")
    assert (told["http.response.status_code"], told["error.type"]) == (504, "infeasible")
    assert span.status.status_code is StatusCode.ERROR
    assert list(bench.spans()) == [INFER]


async def test_an_expired_request_was_in_the_queue_all_the_time() -> None:
    """It ends when that is certain, with nothing run."""
    bench = await Bench().started()
    bench.submit("long")
    bench.submit("short", timeout_ms=10.0)
    bench.clock.advance(20 * NS_PER_MS)
    span, queue = bench.only(INFER), bench.only("superserve.queue")
    assert attributes(span)["superserve.outcome"] == "expired"
    assert (queue.start_time, queue.end_time) == (span.start_time, span.end_time)


async def test_a_client_that_gave_up_is_no_error() -> None:
    """Nobody is to be woken for it."""
    bench = await Bench().started()
    pending = bench.submit(origin=GRPC)
    bench.router.cancel(pending)
    span = bench.only("inference.GRPCInferenceService/ModelInfer")
    told = attributes(span)
    assert (told["superserve.outcome"], told["rpc.response.status_code"]) == ("cancelled", "CANCELLED")
    assert span.status.status_code is StatusCode.UNSET
