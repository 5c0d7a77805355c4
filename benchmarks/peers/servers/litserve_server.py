"""LitServe, with its own batching."""

import base64
from typing import Any

import litserve
import numpy as np

from peers.model import load_model
from peers.servers.arguments import Arguments, parse


class Api(litserve.LitAPI):
    """JSON with base64 in, a JSON list out, as its documentation does for images."""

    def __init__(self, arguments: Arguments) -> None:
        batching = {"max_batch_size": arguments.rows, "batch_timeout": arguments.wait_us / 1e6}
        super().__init__(**(batching if arguments.rows > 1 else {}))
        self.arguments = arguments

    def setup(self, device: str) -> None:
        """Load the model in the worker process."""
        del device
        self.model = load_model(self.arguments.job)

    def decode_request(self, request: dict[str, str]) -> Any:
        """One row."""
        return np.frombuffer(bytearray(base64.b64decode(request["image"])), np.uint8).reshape(
            self.arguments.job.row_shape
        )

    def batch(self, inputs: list[Any]) -> Any:
        """Rows to a batch."""
        return np.stack(inputs)

    def predict(self, x: Any) -> Any:
        """Run a batch, or a row where there is no batching."""
        return self.model(x) if self.arguments.rows > 1 else self.model(x[None])[0]

    def unbatch(self, output: Any) -> list[Any]:
        """A batch to rows."""
        return list(output)

    def encode_response(self, output: Any) -> dict[str, list[float]]:
        """One answer."""
        return {"logits": output.tolist()}


if __name__ == "__main__":
    given = parse()
    server = litserve.LitServer(Api(given), accelerator="cpu", workers_per_device=1, fast_queue=True, timeout=60)
    server.run(host="127.0.0.1", port=given.port, num_api_servers=1, log_level="warning", generate_client_file=False)
