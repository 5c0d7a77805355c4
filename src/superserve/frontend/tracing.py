"""Traces of requests for a collector of OpenTelemetry, if there is to be one: whether, where to, and to their end."""

import asyncio
import logging
import os
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from superserve.clock import NS_PER_S, Clock
from superserve.errors import ConfigError
from superserve.profile import LatencyTable
from superserve.serving.config import OtelConfig
from superserve.serving.tracing import RequestTracer

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

_logger = logging.getLogger(__name__)

#: Where a collector takes traces, behind its URL (OpenTelemetry Protocol, section OTLP/HTTP request).
_PATH: Final = "v1/traces"
_PROTOCOL: Final = "http/protobuf"
#: A collector that does not answer does not keep the server from ending for longer.
_FLUSH_NS: Final = 2 * NS_PER_S
_INSTALL: Final = "pip install 'superserve[otel]'"


class Tracing:
    """Makes and sends the spans of all models of a server.

    Spans are sent by a thread, in batches, out of a queue that is bounded (``OTEL_BSP_MAX_QUEUE_SIZE``): what a
    collector does not take in time is dropped, and the log says so.

    Args:
        exporter: sends spans.
        sampled: share of the requests that are traced unless their client or ``OTEL_TRACES_SAMPLER`` says.
        clock: the one that stamps requests.
    """

    def __init__(self, exporter: "SpanExporter", sampled: float, clock: Clock) -> None:
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415  (of an extra, as below)
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBasedTraceIdRatio  # noqa: PLC0415

        self._exporter = exporter
        self._clock = clock
        self._share = None if "OTEL_TRACES_SAMPLER" in os.environ else sampled
        if self._share is None:
            self._sampler = TracerProvider(shutdown_on_exit=False).sampler  # made as the variables say
        else:
            self._sampler = ParentBasedTraceIdRatio(self._share)
        resource = Resource.create({} if "OTEL_SERVICE_NAME" in os.environ else {"service.name": "superserve"})
        self._provider = TracerProvider(ALWAYS_ON, resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))

    def of(self, model: str, table: LatencyTable) -> RequestTracer:
        """What the router of a model tells its requests to."""
        from superserve.frontend.spans import ModelSpans  # noqa: PLC0415

        return ModelSpans(self._provider, self._sampler, model=model, table=table, clock=self._clock, share=self._share)

    async def stop(self) -> None:
        """Send what is left, within some seconds; nothing may be told of afterwards."""
        enough = self._clock.call_at(self._clock.now_ns() + _FLUSH_NS, self._exporter.shutdown)
        await asyncio.to_thread(self._provider.shutdown)
        enough.cancel()


def open_tracing(config: OtelConfig, clock: Clock) -> Tracing | None:
    """The tracing that is configured; None if it is not wanted.

    An endpoint that only the environment names may be meant for other programs: if it cannot be used, the log says why,
    and there are no traces.

    Raises:
        ConfigError: if an endpoint is configured that cannot be used, or the extra for it is not installed.
    """
    environ = os.environ
    own = config.endpoint is not None
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    if not own and not {"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"} & environ.keys():
        return None
    try:
        exporter = _exporter(config.endpoint)
    except ConfigError as error:
        if own:
            raise
        _logger.warning("no traces: %s", error)
        return None
    return Tracing(exporter, config.sampled, clock)


def _exporter(endpoint: str | None) -> "SpanExporter":
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    if protocol not in {None, "", _PROTOCOL}:
        raise ConfigError(
            f"OTEL_EXPORTER_OTLP_PROTOCOL: traces are sent over {_PROTOCOL} (port 4318 of a collector), "
            f"not {protocol!r}"
        )
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    except ImportError:
        raise ConfigError(f"--otel-endpoint (otel.endpoint): traces need an extra: {_INSTALL}") from None
    return OTLPSpanExporter(None if endpoint is None else traces_url(endpoint))


def traces_url(endpoint: str) -> str:
    """Where a collector takes traces, given its URL; the whole of it may be given, too.

    Raises:
        ConfigError: if it is no URL.
    """
    parts = urlsplit(endpoint)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ConfigError(
            f"--otel-endpoint (otel.endpoint): {endpoint!r} is no URL of a collector, such as http://localhost:4318"
        )
    base = endpoint.rstrip("/")
    return base if base.endswith(f"/{_PATH}") else f"{base}/{_PATH}"
