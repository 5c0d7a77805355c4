"""mosec, with its own batching: bytes in, bytes out."""

import sys
from typing import Any

import numpy as np
from mosec import Server, Worker

from peers.model import load_model
from peers.servers.arguments import parse


class Inference(Worker):
    """The model."""

    def __init__(self) -> None:
        arguments = parse()
        self.shape = arguments.job.row_shape
        self.model = load_model(arguments.job)
        self.batches = arguments.rows > 1

    def deserialize(self, data: bytes) -> Any:
        """One row."""
        return np.frombuffer(data, np.uint8).reshape(self.shape)

    def serialize(self, data: Any) -> bytes:
        """One answer."""
        return bytes(data.tobytes())

    def forward(self, data: Any) -> Any:
        """Run a batch, or a row where there is no batching."""
        return list(self.model(np.stack(data))) if self.batches else self.model(data[None].copy())[0]


if __name__ == "__main__":
    given = parse()
    sys.argv += ["--address", "127.0.0.1", "--capacity", "20000", "--timeout", "60000", "--log-level", "warning"]
    server = Server()
    server.append_worker(Inference, num=1, max_batch_size=given.rows, max_wait_time=max(1, given.wait_us // 1000))
    server.run()
