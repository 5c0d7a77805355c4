"""Whether there are traces, and where they go."""

import builtins
import logging
import sys
from typing import Any

import pytest

from superserve.clock import ManualClock
from superserve.errors import ConfigError
from superserve.frontend.tracing import Tracing, open_tracing, traces_url
from superserve.serving.config import OtelConfig

CLOCK = ManualClock()
ELSEWHERE = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in __import__("os").environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def no_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    """As without the extra."""
    for name in [name for name in sys.modules if name.startswith("opentelemetry")]:
        monkeypatch.delitem(sys.modules, name)
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("opentelemetry"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)


@pytest.fixture
def sdk() -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the extra 'otel' is not installed")


def test_nothing_is_traced_by_default() -> None:
    """Nor is anything imported for it."""
    assert open_tracing(OtelConfig(), CLOCK) is None


@pytest.mark.usefixtures("no_sdk")
def test_without_the_extra_it_is_named() -> None:
    """Whoever asked for traces learns what to install."""
    with pytest.raises(ConfigError, match=r"superserve\[otel\]"):
        open_tracing(OtelConfig(endpoint=ELSEWHERE), CLOCK)


@pytest.mark.usefixtures("no_sdk")
def test_variables_that_may_be_meant_for_others_do_not_keep_it_from_serving(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Operators set them for everything that runs on a machine."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", ELSEWHERE)
    with caplog.at_level(logging.WARNING):
        assert open_tracing(OtelConfig(), CLOCK) is None
    assert "superserve[otel]" in caplog.text


@pytest.mark.usefixtures("sdk")
@pytest.mark.parametrize("endpoint", ["collector:4318", "ftp://collector", "http://", "grpc://collector:4317"])
def test_what_is_no_url_is_refused(endpoint: str) -> None:
    """With an example of one."""
    with pytest.raises(ConfigError, match=r"otel\.endpoint.*http://localhost:4318"):
        open_tracing(OtelConfig(endpoint=endpoint), CLOCK)


@pytest.mark.usefixtures("sdk")
def test_another_protocol_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would speak HTTP to a port for gRPC."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(ConfigError, match="http/protobuf"):
        open_tracing(OtelConfig(endpoint=ELSEWHERE), CLOCK)


def test_a_collectors_url_may_have_the_path_or_not() -> None:
    """As `OTEL_EXPORTER_OTLP_ENDPOINT` and `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` do."""
    assert traces_url("http://c:4318") == traces_url("http://c:4318/") == "http://c:4318/v1/traces"
    assert traces_url("https://c/otlp/v1/traces") == "https://c/otlp/v1/traces"


@pytest.mark.usefixtures("sdk")
def test_the_standard_switch_turns_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else is configured."""
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert open_tracing(OtelConfig(endpoint=ELSEWHERE), CLOCK) is None


@pytest.mark.usefixtures("sdk")
@pytest.mark.parametrize(
    ("variables", "sampler"),
    [
        ({}, "ParentBased{root:TraceIdRatioBased{0.25}"),
        ({"OTEL_TRACES_SAMPLER": "always_on"}, "AlwaysOnSampler"),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.5"}, "TraceIdRatioBased{0.5}"),
    ],
)
async def test_who_is_traced(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], sampler: str) -> None:
    """A share, unless a client or the standard variables say."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    tracing = open_tracing(OtelConfig(endpoint=ELSEWHERE, sampled=0.25), CLOCK)
    assert isinstance(tracing, Tracing)
    assert tracing._sampler.get_description().startswith(sampler)
    await tracing.stop()
