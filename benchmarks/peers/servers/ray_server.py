"""Ray Serve, with its own batching."""

import os
import signal
from typing import Any

import numpy as np
import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from peers.jobs import job_named
from peers.model import load_model
from peers.servers.arguments import parse

#: Of the deployment; the arguments of this process are not those of the replica's.
GIVEN = parse()


@serve.deployment(num_replicas=1, max_ongoing_requests=2000, ray_actor_options={"num_cpus": 0.5})
class Inference:
    """The model."""

    def __init__(self, job_name: str, rows: int, wait_us: int) -> None:
        job = job_named(job_name)
        self.shape = job.row_shape
        self.model = load_model(job)
        self.run.set_max_batch_size(rows)
        self.run.set_batch_wait_timeout_s(wait_us / 1e6)

    @serve.batch(max_batch_size=16, batch_wait_timeout_s=0.001)
    async def run(self, rows: list[bytes]) -> list[bytes]:
        """Run a batch."""
        batch = np.frombuffer(bytearray(b"".join(rows)), np.uint8).reshape(len(rows), *self.shape)
        return [answer.tobytes() for answer in self.model(batch)]

    async def __call__(self, request: Request) -> Any:
        """One request."""
        return Response(await self.run(await request.body()), media_type="application/octet-stream")


if __name__ == "__main__":
    # Of a cluster that is there already it takes what it finds.
    cpus = None if "RAY_ADDRESS" in os.environ else 2
    ray.init(num_cpus=cpus, include_dashboard=False, configure_logging=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": GIVEN.port})
    application: Any = Inference
    serve.run(application.bind(GIVEN.job.name, GIVEN.rows, GIVEN.wait_us), route_prefix="/infer")
    signal.pause()
