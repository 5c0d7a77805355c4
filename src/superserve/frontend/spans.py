"""Spans of OpenTelemetry for the requests of a model, made when they have ended of the times that were taken anyway.

The only module that imports the SDK, which comes with an extra: ``tracing.py`` imports this when traces are wanted.

A request's span holds one for its time in the queue, one for its batch's way to the worker and back, and one for the
time in the worker. A batch belongs to no request alone: its span begins a trace of its own, linked to its requests'
spans, and these requests' last spans are linked to it.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision, Sampler, TraceIdRatioBased
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, Tracer, get_current_span, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from superserve.clock import NS_PER_MS, Clock, epoch_ns
from superserve.errors import SuperServeError
from superserve.frontend.status import grpc_status, http_status
from superserve.profile import LatencyTable
from superserve.request import Outcome
from superserve.scheduling.actions import Launch
from superserve.serving.router import Pending
from superserve.serving.tracing import Call, Origin

#: Statuses from here on say that it was not the client's doing; HTTP's and gRPC's conventions agree on all of ours.
_SERVER_ERRORS: Final = 500

#: Names of the spans, which tell calls apart and nothing else.
_NAMES: Final[Mapping[Call, str]] = {
    Call.HTTP: "POST /v2/models/{model}/infer",
    Call.GRPC: "inference.GRPCInferenceService/ModelInfer",
    Call.GRPC_STREAM: "inference.GRPCInferenceService/ModelStreamInfer",
}
_PROTOCOL: Final[Mapping[Call, dict[str, AttributeValue]]] = {
    Call.HTTP: {"http.request.method": "POST", "http.route": _NAMES[Call.HTTP].removeprefix("POST ")},
    Call.GRPC: {"rpc.system.name": "grpc", "rpc.method": _NAMES[Call.GRPC]},
    Call.GRPC_STREAM: {"rpc.system.name": "grpc", "rpc.method": _NAMES[Call.GRPC_STREAM]},
}

#: Nobody's trace.
_ROOT: Final = Context()


class ModelSpans:
    """Makes the spans of one model's requests, of those that a sampler wants.

    Nothing that a request causes elsewhere depends on its span, so that it can be made afterwards, and nothing at all
    is for a request that is not sampled.

    Args:
        provider: of spans that are recorded whatever they are: the choice is made before.
        sampler: chooses among the requests. A `ParentBasedTraceIdRatio` is asked only of those that are in a trace:
            its rule for others is applied here, since to ask takes over 2 us and there may be thousands a second.
        share: the ratio of such a sampler; None for others.
        model: its name.
        table: names and accuracies of its subnets.
        clock: the one that stamps its requests.
    """

    def __init__(
        self,
        provider: TracerProvider,
        sampler: Sampler,
        *,
        model: str,
        table: LatencyTable,
        clock: Clock,
        share: float | None = None,
    ) -> None:
        self._tracer: Tracer = provider.get_tracer("superserve")
        self._sampler = sampler
        self._bound = None if share is None else TraceIdRatioBased.get_bound_for_rate(share)
        self._ids = RandomIdGenerator()
        self._propagator = TraceContextTextMapPropagator()
        self._model = model
        self._table = table
        self._clock = clock

    def answered(self, launch: Launch, requests: Sequence[Pending], ended_ns: int) -> None:
        """See `RequestTracer.answered`."""
        sampled = []
        for request in requests:
            parent = self._sampled(request.origin)
            if parent is not None:
                sampled.append((request, parent))
        if not sampled:
            return
        date_ns = self._date_ns()
        spans = [self._served(request, parent, launch, ended_ns, date_ns) for request, parent in sampled]
        batch = self._batch(launch, spans, date_ns)
        began_ns = max(launch.launched_ns, launch.ended_ns - launch.taken_ns)
        for span, (request, _) in zip(spans, sampled, strict=True):
            within = set_span_in_context(span, _ROOT)
            self._part("queue", within, request.arrival_ns + date_ns, launch.launched_ns + date_ns)
            self._part("wait", within, launch.launched_ns + date_ns, began_ns + date_ns)
            self._part("infer", within, began_ns + date_ns, launch.ended_ns + date_ns, batch)
            span.end(ended_ns + date_ns)

    def refused(self, request: Pending, outcome: Outcome, error: SuperServeError, ended_ns: int) -> None:
        """See `RequestTracer.refused`."""
        parent = self._sampled(request.origin)
        if parent is None:
            return
        date_ns, status = self._date_ns(), http_status(error)
        span = self._request(request, parent, outcome, ended_ns, date_ns)
        span.set_attribute("superserve.reason", error.reason)
        _set_status(span, request.origin.call, status, grpc_status(error))
        if status >= _SERVER_ERRORS:
            span.set_attribute("error.type", error.reason)
            span.set_status(Status(StatusCode.ERROR, str(error)))
        if outcome is Outcome.EXPIRED:  # what was refused at once did not wait, and of others it is not known how long
            within = set_span_in_context(span, _ROOT)
            self._part("queue", within, request.arrival_ns + date_ns, ended_ns + date_ns)
        span.end(ended_ns + date_ns)

    def _sampled(self, origin: Origin) -> Context | None:
        """What the span of a request stands in; None if there is to be none."""
        if not origin.traceparent and self._bound is not None:
            drawn = self._ids.generate_trace_id() & TraceIdRatioBased.TRACE_ID_LIMIT
            return _ROOT if drawn < self._bound else None
        if origin.traceparent:
            parent = self._propagator.extract({"traceparent": origin.traceparent}, _ROOT)
            trace_id = get_current_span(parent).get_span_context().trace_id or self._ids.generate_trace_id()
        else:
            parent, trace_id = _ROOT, self._ids.generate_trace_id()
        result = self._sampler.should_sample(parent, trace_id, _NAMES[origin.call], SpanKind.SERVER)
        return parent if result.decision is Decision.RECORD_AND_SAMPLE else None

    def _date_ns(self) -> int:
        """What makes a date of an instant of the clock."""
        return epoch_ns() - self._clock.now_ns()

    def _request(self, request: Pending, parent: Context, outcome: Outcome, ended_ns: int, date_ns: int) -> Span:
        """The span of a request, begun when it arrived."""
        call = request.origin.call
        attributes: dict[str, AttributeValue] = {
            **_PROTOCOL[call],
            "superserve.model": self._model,
            "superserve.request_id": request.request_id.decode("latin-1"),
            "superserve.outcome": outcome.value,
            "superserve.rows": request.rows,
            "superserve.deadline_ms": (request.deadline_ns - request.arrival_ns) / NS_PER_MS,
            "superserve.slack_ms": (request.deadline_ns - ended_ns) / NS_PER_MS,
            "superserve.lost_workers": request.losses,
        }
        return self._tracer.start_span(
            _NAMES[call], parent, SpanKind.SERVER, attributes, start_time=request.arrival_ns + date_ns
        )

    def _served(self, request: Pending, parent: Context, launch: Launch, ended_ns: int, date_ns: int) -> Span:
        outcome = Outcome.SERVED if launch.ended_ns <= request.deadline_ns else Outcome.LATE
        span = self._request(request, parent, outcome, ended_ns, date_ns)
        span.set_attributes(self._of_batch(launch))
        _set_status(span, request.origin.call, 200, "OK")
        return span

    def _batch(self, launch: Launch, spans: Sequence[Span], date_ns: int) -> Span:
        """The span of a batch, linked to those of its requests."""
        attributes: dict[str, AttributeValue] = {
            **self._of_batch(launch),
            "superserve.model": self._model,
            "superserve.worker": launch.worker,
            "superserve.requests": len(launch.requests),
            "superserve.waiting": launch.waiting,
            "superserve.bound": launch.bound.value,
        }
        links = [Link(span.get_span_context()) for span in spans]
        batch = self._tracer.start_span(
            "superserve.batch", _ROOT, SpanKind.INTERNAL, attributes, links, launch.launched_ns + date_ns
        )
        batch.end(launch.ended_ns + date_ns)
        return batch

    def _part(self, name: str, within: Context, from_ns: int, to_ns: int, linked: Span | None = None) -> None:
        """A part of a request's time, by dates."""
        links = () if linked is None else (Link(linked.get_span_context()),)
        self._tracer.start_span(f"superserve.{name}", within, links=links, start_time=from_ns).end(to_ns)

    def _of_batch(self, launch: Launch) -> dict[str, AttributeValue]:
        table, subnet = self._table, launch.subnet
        return {
            "superserve.subnet": table.ids[subnet],
            "superserve.accuracy": table.accuracies[subnet],
            "superserve.batch_size": launch.rows,
        }


def _set_status(span: Span, call: Call, http: int, grpc: str) -> None:
    if call is Call.HTTP:
        span.set_attribute("http.response.status_code", http)
    else:
        span.set_attribute("rpc.response.status_code", grpc)
