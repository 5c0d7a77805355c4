"""Whether and where metrics are told."""

import logging

import pytest

from superserve.clock import ManualClock
from superserve.errors import ConfigError
from superserve.frontend import metrics_front_end
from superserve.frontend.common import Common
from superserve.frontend.metrics_front_end import MetricsFrontEnd
from superserve.serving.config import resolve
from superserve.serving.dataplane import DataPlane
from superserve.serving.fake_pool import FakePool
from support.serving import make_model, make_router

pytestmark = pytest.mark.integration


def front_end(port: int | None) -> MetricsFrontEnd:
    clock = ManualClock()
    plane = DataPlane([make_model(make_router(FakePool(), clock))], version="9")
    return MetricsFrontEnd(plane, clock, resolve({"server.metrics_port": port}, {}).config, Common())


async def test_a_usual_port_in_use_is_done_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With a warning; the same port asked for by name is an error."""
    first = front_end(0)
    await first.start()
    monkeypatch.setattr(metrics_front_end, "DEFAULT_PORT", first.port)
    second, third = front_end(None), front_end(first.port)
    with caplog.at_level(logging.WARNING):
        await second.start()
    assert second.port == 0
    assert "--metrics-port" in caplog.text
    with pytest.raises(ConfigError, match="--metrics-port"):
        await third.start()
    for started in (first, second, third):
        await started.stop()
