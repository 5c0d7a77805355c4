"""What Prometheus reads, read back by its own parser."""

from prometheus_client.parser import text_string_to_metric_families

from superserve.clock import NS_PER_MS, ManualClock
from superserve.frontend.body_memory import BodyMemory
from superserve.frontend.http_server import HttpServer
from superserve.frontend.metrics_page import MetricsRoutes
from superserve.serving.config import HttpConfig
from superserve.serving.dataplane import DataPlane
from superserve.serving.fake_pool import FakePool
from superserve.serving.router import Router
from superserve.serving.shared_pool import SharedPool
from support.http_bench import GET, responses
from support.serving import MODEL, PROFILE, Recorder, make_ledger, make_model, make_router, rename
from support.transport import FakeTransport


class Bench:
    """Two models on two workers, and what is told of them."""

    def __init__(self) -> None:
        self.clock, self.pool = ManualClock(), FakePool(2)
        shared = SharedPool(self.pool, self.clock)
        self.routers = [
            make_router(shared, self.clock, number=number, ledger=make_ledger() if number else None)
            for number in range(2)
        ]
        models = [
            make_model(router, config=rename(MODEL, name))
            for router, name in zip(self.routers, ('q"uoted', "tiny"), strict=True)
        ]
        self.memory = BodyMemory(1000)
        routes = MetricsRoutes(DataPlane(models, version="9"), self.memory, lambda: 0.25)
        self.server = HttpServer(routes, self.clock, HttpConfig())

    def submit(self, router: Router, rows: int = 1, timeout_ms: int = 50) -> None:
        now_ns = self.clock.now_ns()
        router.submit(
            arrival_ns=now_ns,
            deadline_ns=now_ns + timeout_ms * NS_PER_MS,
            rows=rows,
            min_accuracy=0,
            priority=0,
            inputs=[bytes(4 * rows), bytes(4 * rows)],
            responder=Recorder(),
        )

    def asked(self, path: bytes = b"/metrics") -> tuple[int, dict[str, str], bytes]:
        protocol = self.server.connection()
        transport = FakeTransport(protocol)
        protocol.connection_made(transport)
        protocol.data_received(GET.replace(b"/a", path))
        (response,) = responses(transport.sent)
        return response

    def told(self) -> dict[tuple[str, ...], float]:
        """Value by sample name and the values of its labels, in the order of their names."""
        status, headers, body = self.asked()
        assert (status, headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
        return {
            (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(body.decode())
            for sample in family.samples
        }


async def test_everything_is_told_of_every_model() -> None:
    """Outcomes, stages, batches by subnet, what waits, workers and memory; names need quoting."""
    bench = Bench()
    for router in bench.routers:
        await router.start()
    quoted, tiny = bench.routers
    for rows in (1, 2, 1):
        bench.submit(tiny, rows)
    bench.submit(quoted)
    bench.memory.take(123)
    told = bench.told()
    assert told["superserve_workers", "busy"] == 2
    assert told["superserve_workers", "idle"] == 0
    assert (told["superserve_queue_depth", "tiny"], told["superserve_queue_depth", 'q"uoted']) == (1, 1)
    assert told["superserve_body_memory_bytes",] == 123
    bench.clock.advance(3 * NS_PER_MS)
    for worker in (0, 1):
        bench.pool.finish(worker, infer_ns=2 * NS_PER_MS)
    told = bench.told()
    assert told["superserve_requests_total", "tiny", "served"] == 2
    assert told["superserve_requests_total", "tiny", "expired"] == 0
    assert told["superserve_rescued_requests_total", "tiny", "served"] == 0
    assert told["superserve_launched_too_late_total", "tiny"] == 0
    assert told["superserve_request_duration_seconds_count", "tiny"] == 2
    assert told["superserve_request_duration_seconds_sum", "tiny"] == 0.006
    assert told["superserve_wait_duration_seconds_sum", "tiny"] == 0.002
    counts = [told["superserve_wait_duration_seconds_bucket", bound, "tiny"] for bound in ("0.0005", "0.001", "+Inf")]
    assert counts == [0, 2, 2]
    assert sum(told["superserve_dispatches_total", "tiny", subnet] for subnet in ("s0", "s1")) == 2
    assert sum(told["superserve_batch_size_sum", "tiny", subnet] for subnet in ("s0", "s1")) == 3
    assert sum(told["superserve_inference_duration_seconds_count", "tiny", subnet] for subnet in ("s0", "s1")) == 2
    assert told["superserve_queue_depth", "tiny"] == 0
    assert told["superserve_overhead_duration_seconds_count", "tiny"] == 2
    assert told["superserve_overhead_duration_seconds_sum", "tiny"] == 0.002
    assert told["superserve_planned_overhead_seconds", "tiny"] == tiny.scheduler.planned_overhead_ns / 1e9
    assert told["superserve_drift_ratio", "tiny"] == 1.0
    assert told["superserve_burst_headroom_ratio",] == 0.25


async def test_accuracy_given_up_is_summed_over_requests() -> None:
    """A batch of two requests counts twice; divided by the answered requests, it is the mean."""
    bench = Bench()
    _, tiny = bench.routers
    for router in bench.routers:
        await router.start()
    for _ in range(4):  # two run, and two wait for a batch of their own
        bench.submit(tiny)
    while bench.pool.running:
        bench.pool.finish(min(bench.pool.running))
    for _ in range(2):
        bench.submit(tiny, timeout_ms=3)  # the better subnet takes 4
    for worker in (0, 1):
        bench.pool.finish(worker)
    told = bench.told()
    assert told["superserve_answered_requests_total", "tiny", "s1"] == 4
    assert told["superserve_dispatches_total", "tiny", "s1"] == 3
    assert told["superserve_answered_requests_total", "tiny", "s0"] == 2
    assert told["superserve_accuracy_given_up_points_total", "tiny"] == 2.0
    assert told["superserve_accuracy_given_up_points_total", 'q"uoted'] == 0.0


async def test_the_ledger_is_told_of_models_that_keep_one() -> None:
    """By subnet: how many were answered, compared and agreed, and the interval's ends once there is one."""
    bench = Bench()
    for router in bench.routers:
        await router.start()
    for timeout_ms in (200, 200, 3):
        bench.submit(bench.routers[1], timeout_ms=timeout_ms)
        bench.pool.finish(*bench.pool.running)
    told = bench.told()
    assert told["superserve_ledger_answered_total", "tiny", "s0"] == 1
    assert told["superserve_ledger_compared_total", "tiny", "s0"] == 0
    assert ("superserve_ledger_agreement_ratio", "low", "tiny", "s0") not in told
    bench.clock.advance(100 * NS_PER_MS)
    bench.pool.finish(*bench.pool.running)
    told = bench.told()
    assert (
        told["superserve_ledger_compared_total", "tiny", "s0"] == told["superserve_ledger_agreed_total", "tiny", "s0"]
    )
    low, high = (told["superserve_ledger_agreement_ratio", end, "tiny", "s0"] for end in ("low", "high"))
    assert 0 < low < high == 1
    assert told["superserve_ledger_dropped_total", "tiny"] == 0
    assert not [key for key in told if key[0].startswith("superserve_ledger") and 'q"uoted' in key]


def test_nothing_else_is_served_there() -> None:
    """The port may be open to those who must not send requests."""
    assert Bench().asked(b"/v2")[0] == 404


async def test_workers_are_told_by_device_where_there_are_several() -> None:
    """Of one device, nothing: all are of that."""
    bench = Bench()
    assert not any(name == "superserve_device_workers" for name, *_ in bench.told())
    names = ("fast", "slow")
    shared = SharedPool(FakePool(3, devices=names), bench.clock, devices=names)
    router = make_router(shared, bench.clock, profile=(PROFILE, PROFILE))
    await router.start()
    plane = DataPlane([make_model(router, devices=names)], version="9")
    bench.server = HttpServer(MetricsRoutes(plane, bench.memory, lambda: 0.25), bench.clock, HttpConfig())
    told = bench.told()
    assert (told["superserve_device_workers", "fast"], told["superserve_device_workers", "slow"]) == (2, 1)
