"""Whether and where there is a gRPC front end."""

import asyncio
import logging

import pytest

from superserve.clock import ManualClock
from superserve.errors import ConfigError
from superserve.frontend import grpc_front_end
from superserve.frontend.common import Common
from superserve.frontend.grpc_front_end import GrpcFrontEnd
from superserve.serving.config import resolve
from superserve.serving.dataplane import DataPlane
from superserve.serving.fake_pool import FakePool
from support.serving import make_model, make_router

pytestmark = pytest.mark.integration


def front_end(**flags: object) -> GrpcFrontEnd:
    config = resolve({key.replace("__", "."): value for key, value in flags.items()}, {}).config
    clock = ManualClock()
    return GrpcFrontEnd(DataPlane([make_model(make_router(FakePool(), clock))], version="9"), clock, config, Common())


async def test_a_usual_port_in_use_is_done_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With a warning; the same port asked for by name is an error."""
    first = front_end(server__grpc_port=0)
    await first.start()
    monkeypatch.setattr(grpc_front_end, "DEFAULT_PORT", first.port)
    second, third = front_end(), front_end(server__grpc_port=first.port)
    with caplog.at_level(logging.WARNING):
        await second.start()
    assert second.port == 0
    assert "--grpc-port" in caplog.text
    with pytest.raises(ConfigError, match="--grpc-port"):
        await third.start()
    for started in (first, second, third):
        await started.stop(0)


async def test_it_can_be_left_out() -> None:
    """Then nothing listens, and stopping it does nothing."""
    none = front_end(grpc__enabled=False)
    await none.start()
    assert none.port == 0
    await asyncio.wait_for(none.stop(), 1)
