"""The BentoML service that ``bentoml_server.py`` starts; its arguments come in the environment."""

import base64
import os
from typing import Any

import bentoml
import numpy as np

from peers.jobs import job_named
from peers.model import load_model

JOB = job_named(os.environ["PEER_JOB"])
ROWS = int(os.environ["PEER_ROWS"])
LATENCY_MS = 10_000


@bentoml.service(
    workers=1,
    traffic={"timeout": 60, "max_concurrency": 2000},
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
)
class Inference:
    """The model."""

    def __init__(self) -> None:
        self.model = load_model(JOB)

    def _run(self, image: list[str]) -> list[list[float]]:
        data = b"".join(base64.b64decode(text) for text in image)
        answers: Any = self.model(np.frombuffer(bytearray(data), np.uint8).reshape(len(image), *JOB.row_shape))
        logits: list[list[float]] = answers.tolist()
        return logits

    if ROWS > 1:

        @bentoml.api(route="/infer", batchable=True, max_batch_size=ROWS, max_latency_ms=LATENCY_MS)
        def infer(self, image: list[str]) -> list[list[float]]:
            """Run a batch."""
            return self._run(image)
    else:

        @bentoml.api(route="/infer")
        async def infer(self, image: list[str]) -> list[list[float]]:
            """Run a request in the event loop: a thread per request costs more than the model."""
            return self._run(image)
