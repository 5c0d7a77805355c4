"""Where the router's own time goes, stage by stage: one request with a binary tensor of 3 KB, without sockets.

A client that sends the same head and the same JSON every time is known from its second request on; of one that puts an
id of its own into both, each request is parsed. Run: ``python benchmarks/request_stages.py [--json FILE]``.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from http_path import CONFIG, infer_message, noop_profile
from side_by_side import json_argument, measure, table, write
from superserve.clock import MonotonicClock, monotonic_ns
from superserve.errors import SuperServeError
from superserve.frontend.exchange import Exchange, RequestHandler
from superserve.frontend.http_server import HttpServer
from superserve.frontend.infer_reader import InferReader
from superserve.frontend.routes import V2Routes
from superserve.profile import LatencyTable
from superserve.scheduling import Scheduler, create_policy
from superserve.serving.config import HttpConfig
from superserve.serving.dataplane import DataPlane, ServedModel
from superserve.serving.fake_pool import FakePool
from superserve.serving.inference import Answer
from superserve.serving.pool import Batch
from superserve.serving.router import Router
from superserve.serving.shared_pool import SharedPool

#: More than what is remembered of heads and JSON, so that a message comes again only when it has been forgotten.
REQUESTS = 2048
BATCH = 16

Work = Callable[[], int]


class Sink(asyncio.Transport):
    """Takes whatever is written."""

    def write(self, data: object) -> None:
        """See `asyncio.WriteTransport`."""


class Constant:
    """Answers every request with the same few bytes."""

    def handle(self, exchange: Exchange) -> None:
        """See `RequestHandler`."""
        exchange.respond_json(b"{}")


class Nobody:
    """A `Responder` that does nothing."""

    def answered(self, answer: Answer) -> None:
        """See `Responder.answered`."""

    def refused(self, error: SuperServeError) -> None:
        """See `Responder.refused`."""
        raise error


def zeros(batch: Batch) -> list[bytes]:
    """Ten float zeros per row."""
    return [bytes(40 * batch.rows)]


@dataclass
class Rig:
    """A model without workers, behind a server without sockets."""

    clock: MonotonicClock
    pool: FakePool
    model: ServedModel

    @classmethod
    async def started(cls) -> "Rig":
        """Its router admits requests."""
        clock, pool = MonotonicClock(asyncio.get_running_loop()), FakePool(1, zeros)
        shared = SharedPool(pool, clock)
        policy = create_policy("fixed:largest", LatencyTable(noop_profile()))
        scheduler = Scheduler(policy, overhead_ns=0, shared=shared.workers)
        router = Router(scheduler, shared, clock, output_row_bytes=[40])
        await router.start()
        return cls(clock, pool, ServedModel(CONFIG, router, slo_ms=10_000.0))

    def finish(self) -> None:
        """End all batches."""
        while self.pool.running:
            self.pool.finish(0)
        self.pool.launched.clear()

    def whole(self, messages: Sequence[bytes], handler: RequestHandler | None = None) -> Work:
        """Bytes to bytes: all that the router does, or with another handler only what HTTP takes."""
        server = HttpServer(handler or V2Routes(DataPlane([self.model], version="0")), self.clock, HttpConfig())
        connections = [server.connection() for _ in range(BATCH)]
        for connection in connections:
            connection.connection_made(Sink())

        def work() -> int:
            for number, message in enumerate(messages):
                connections[number % BATCH].data_received(message)
                if number % BATCH == BATCH - 1:
                    self.finish()
            return len(messages)

        return work

    def read(self, messages: Sequence[bytes]) -> Work:
        """A body to a checked request."""
        reader = InferReader(self.model)
        received = [_received(message) for message in messages]

        def work() -> int:
            for body, headers in received:
                reader.read(body, headers)
            return len(received)

        return work

    def schedule(self, message: bytes) -> Work:
        """A checked request to its place in a batch, and the end of that."""
        checked = InferReader(self.model).read(*_received(message)).checked
        responder = Nobody()

        def work() -> int:
            for _ in range(REQUESTS // BATCH):
                now_ns = monotonic_ns()
                for _ in range(BATCH):
                    self.model.submit(checked, now_ns, responder)
                self.finish()
            return REQUESTS

        return work

    def encode(self, message: bytes) -> Work:
        """An answer to the bytes of a response, HTTP's included."""
        plan = InferReader(self.model).read(*_received(message)).plan
        connection = HttpServer(Constant(), self.clock, HttpConfig()).connection()
        connection.connection_made(Sink())
        exchange = Exchange(connection)
        answer = Answer(0, BATCH, 1, 123, 4567, slo_met=True, decode_us=12, wait_us=34, outputs=[memoryview(bytes(40))])

        def work() -> int:
            for _ in range(REQUESTS):
                exchange.respond_tensors(*plan.encode("", answer))
            return REQUESTS

        return work


def _received(message: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    """Body and headers of an infer message."""
    body = message.partition(b"\r\n\r\n")[2]
    return body, {b"inference-header-content-length": b"%d" % (len(body) - CONFIG.inputs[0].row_bytes)}


async def main() -> None:
    """Measure and print."""
    path = json_argument(main.__doc__ or "")
    rig = await Rig.started()
    same = [infer_message()] * REQUESTS
    other = [infer_message(str(number)) for number in range(REQUESTS)]
    times = measure(
        {
            "whole, known": rig.whole(same),
            "whole, not known": rig.whole(other),
            "HTTP in and out, known": rig.whole(same, Constant()),
            "HTTP in and out, not known": rig.whole(other, Constant()),
            "body to checked request, known": rig.read(same),
            "body to checked request, not known": rig.read(other),
            f"queued, in a batch of {BATCH}, ended": rig.schedule(same[0]),
            "answer to bytes": rig.encode(same[0]),
        }
    )
    write(path, [table("One request in the router, without sockets", times)])


if __name__ == "__main__":
    asyncio.run(main())
