"""A profile measured again, as it is asked for over HTTP and told to Prometheus."""

import asyncio
import json
from typing import Any

import pytest
from msgspec.structs import replace

from superserve.clock import NS_PER_MS, ManualClock
from superserve.conditions import Conditions
from superserve.frontend.authorization import Access, Tokens
from superserve.frontend.body_memory import BodyMemory
from superserve.frontend.exchange import Exchange
from superserve.frontend.metrics_page import ModelCollector
from superserve.frontend.routes import V2Routes
from superserve.profile import Profile
from superserve.serving.dataplane import DataPlane
from superserve.serving.fake_pool import FakePool
from superserve.serving.idle_work import LOOK_NS
from support.serving import PROFILE, make_live_profile, make_model, make_router

PATH = b"/v2/models/tiny/profile"
USER, ADMIN = "a-token-of-a-user", "a-token-of-an-admin"


class Bench:
    """The routes of a server that asks for tokens, without HTTP."""

    def __init__(self, *, allowed: bool = True, profile: Profile = PROFILE) -> None:
        self.clock, self.pool = ManualClock(), FakePool()
        live = make_live_profile(profile) if allowed else None
        self.router = make_router(self.pool, self.clock, idle_sources=() if live is None else (live,))
        self.plane = DataPlane([make_model(self.router, live_profile=live)], version="9")
        self.routes = V2Routes(self.plane, None, Access(Tokens.read_lines([USER]), Tokens.read_lines([ADMIN])))
        self.response = b""

    def send(self, _: Exchange, response: bytes) -> None:
        self.response = response

    def next_request_id(self) -> bytes:
        return b"r"

    def ask(self, method: bytes, token: str = ADMIN) -> tuple[int, Any]:
        """Status and JSON."""
        exchange = Exchange(self)
        exchange.method, exchange.url = method, PATH
        exchange.headers = {b"authorization": f"Bearer {token}".encode()}
        self.routes.handle(exchange)
        head, _, body = self.response.partition(b"\r\n\r\n")
        return int(head.split()[1]), json.loads(body)


async def test_an_administrator_has_a_profile_measured() -> None:
    """It is answered at once; everybody may ask how far it is, and in the end Prometheus is told of each cell."""
    bench = Bench()
    await bench.router.start()
    assert bench.ask(b"GET", USER)[1]["state"] == "never measured"
    assert bench.ask(b"POST", USER)[0] == 403
    status, told = bench.ask(b"POST")
    assert (status, told["state"]) == (200, "measuring")
    assert bench.ask(b"POST")[0] == 409
    while bench.ask(b"GET", USER)[1]["state"] == "measuring":
        await asyncio.sleep(0)
        bench.clock.advance(LOOK_NS)
        while bench.pool.running:
            bench.pool.finish(0, infer_ns=2 * NS_PER_MS)
    told = bench.ask(b"GET", USER)[1]
    assert (told["state"], told["kept"], told["problem"]) == ("measured", None, "")
    ratios = {(cell["subnet"], cell["batch"]): cell["ratio"] for cell in told["cells"]}
    assert ratios == {("s0", 1): 2.0, ("s0", 4): 1.0, ("s1", 1): 0.5, ("s1", 4): 0.25}
    families = {family.name: family for family in ModelCollector(bench.plane, BodyMemory(1)).collect()}
    samples = families["superserve_profile_drift_ratio"].samples
    assert {(one.labels["subnet"], int(one.labels["batch"])): one.value for one in samples} == ratios


@pytest.mark.parametrize("method", [b"GET", b"POST"])
async def test_unless_it_is_allowed_nothing_is_measured(method: bytes) -> None:
    status, error = Bench(allowed=False).ask(method)
    assert (status, "--reprofile" in error["error"]) == (501, True)


@pytest.mark.parametrize("allowed", [True, False])
async def test_a_doubtful_profile_is_measured_unasked_if_that_is_allowed(*, allowed: bool) -> None:
    """A sound one waits to be asked for."""
    doubtful = replace(PROFILE, conditions=Conditions(worker_waited=0.5))
    for profile, state in ((PROFILE, "never measured"), (doubtful, "measuring")):
        bench = Bench(allowed=allowed, profile=profile)
        await bench.router.start()
        for model in bench.plane.models.values():
            model.mend_profile()
            assert not allowed or model.live_profile.report().state == state
            assert model.can_reprofile == allowed
