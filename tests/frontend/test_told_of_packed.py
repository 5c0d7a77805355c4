"""A model on the packed engine, wherever somebody looks: metadata, the live page, metrics."""

import json
from types import SimpleNamespace
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from superserve.clock import NS_PER_MS, NS_PER_S, ManualClock
from superserve.frontend.body_memory import BodyMemory
from superserve.frontend.common import Common
from superserve.frontend.dashboard.history import History
from superserve.frontend.grpc.inference import InferenceService
from superserve.frontend.http_server import HttpServer
from superserve.frontend.metrics_page import MetricsRoutes
from superserve.frontend.routes import RouteTable, V2Routes
from superserve.protocol.messages import INFERENCE, ModelMetadataResponse, message
from superserve.scheduling.workers import SharedWorkers
from superserve.serving.config import HttpConfig
from superserve.serving.dataplane import DataPlane
from superserve.serving.fake_pool import FakePool
from support.http_bench import GET, responses
from support.packing import ROW, WEIGHTS, Packs, packed_router
from support.serving import Recorder, make_model, make_router
from support.transport import FakeTransport


class Context:
    """Of a gRPC call without metadata."""

    def invocation_metadata(self) -> tuple[()]:
        return ()

    def set_trailing_metadata(self, _: object) -> None:
        """Nobody reads it."""


class Bench:
    """A server with a model of three subnets, the first and the last of which are packed, and memory for both."""

    def __init__(self) -> None:
        self.clock, self.pool = ManualClock(), FakePool()
        self.router, _ = packed_router(self.pool, self.clock, Packs(), kept=(0, 2))
        self.plane = DataPlane([make_model(self.router)], version="9")
        self.history = History(self.plane, SharedWorkers(), lambda: 1, self.clock)

    async def served(self) -> "Bench":
        """Four requests have been answered within a second: three by the largest subnet, one by the middle one."""
        await self.router.start()
        self.history.start()
        for _ in range(3):
            self.serve()
        self.router.telemetry.answered[1] += 1
        self.clock.advance(NS_PER_S)
        return self

    def serve(self) -> None:
        now_ns, recorder = self.clock.now_ns(), Recorder()
        self.router.submit(now_ns, now_ns + 100 * NS_PER_MS, 1, 0.0, 0, ROW, recorder)
        self.pool.finish(0)
        assert recorder.answers

    def get(self, path: str, routes: RouteTable | None = None) -> bytes:
        routes = routes or V2Routes(self.plane, history=self.history)
        protocol = HttpServer(routes, self.clock, HttpConfig()).connection()
        transport = FakeTransport(protocol)
        protocol.connection_made(transport)
        protocol.data_received(GET.replace(b"/a", path.encode()))
        ((_, _, body),) = responses(transport.sent)
        return bytes(body)

    async def metadata_by_grpc(self) -> Any:
        handlers = InferenceService(self.plane, self.clock, Common()).handlers()
        call = handlers.service(SimpleNamespace(method=f"/{INFERENCE}/ModelMetadata", invocation_metadata=()))
        asked = message("inference.ModelMetadataRequest")(name="tiny")
        return ModelMetadataResponse.FromString(await call.unary_unary(asked.SerializeToString(), Context()))


EXPECTED = {
    "superserve_engine": "packed",
    "superserve_weights_bytes": WEIGHTS,
    "superserve_packed_bytes": 40,
    "superserve_packed_budget_bytes": 40,
    "superserve_packed_share": 0.75,
    "superserve_subnets_resident": "s0,s2",
    "superserve_subnets_packing": "",
    "superserve_subnets_packed": "",
    "superserve_subnets_refused": "",
    "superserve_subnets_not_packed": "s1",
}


async def test_metadata_say_it_in_parameters() -> None:
    """Over gRPC there is no field for them; of a model on another engine there are none."""
    bench = await Bench().served()
    assert json.loads(bench.get("/v2/models/tiny"))["parameters"] == EXPECTED
    assert [tensor.name for tensor in (await bench.metadata_by_grpc()).inputs] == ["image", "scale"]
    bench.plane.replace(make_model(make_router(FakePool(), bench.clock)))
    assert "parameters" not in json.loads(bench.get("/v2/models/tiny"))


async def test_the_live_page_is_told_of_each_subnet() -> None:
    bench = await Bench().served()
    told = json.loads(bench.get("/v2/activity"))
    assert told["packed"]["tiny"]["subnets"] == ["s0", "s2"]
    assert [one["state"] for one in told["packed"]["tiny"]["front"]] == ["resident", "not packed", "resident"]
    assert [one["answered"] for one in told["packed"]["tiny"]["front"]] == [0, 0, 3]
    (second,) = told["seconds"]
    assert (second["models"]["tiny"]["packed"], sum(second["models"]["tiny"]["subnets"])) == (3.0, 4.0)
    bench.plane.replace(make_model(make_router(FakePool(), bench.clock)))
    bench.clock.advance(NS_PER_S)
    told = json.loads(bench.get("/v2/activity"))
    assert told["packed"] == {}
    assert told["seconds"][-1]["models"]["tiny"]["packed"] is None


async def test_metrics_have_a_series_for_each_state() -> None:
    bench = await Bench().served()
    page = bench.get("/metrics", MetricsRoutes(bench.plane, BodyMemory(1000))).decode()
    samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
    values = {sample.name: sample.value for sample in samples}
    assert (values["superserve_weights_bytes"], values["superserve_packed_bytes"]) == (WEIGHTS, 40)
    states = [sample for sample in samples if sample.name == "superserve_subnet_residency"]
    assert len(states) == 3 * 5
    assert {sample.labels["subnet"]: sample.labels["state"] for sample in states if sample.value} == {
        "s0": "resident",
        "s1": "not packed",
        "s2": "resident",
    }
