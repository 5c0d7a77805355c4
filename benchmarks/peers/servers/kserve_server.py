"""KServe's model server. Batching there is the agent's, beside the server in the cluster: the SDK has none."""

from typing import Any

import kserve
import numpy as np
from kserve import InferOutput, InferRequest, InferResponse

from peers.jobs import OUTPUT_NAME, Job
from peers.model import load_model
from peers.servers.arguments import parse, settle


class Inference(kserve.Model):
    """The model."""

    def __init__(self, job: Job) -> None:
        super().__init__(job.model)
        self.run = load_model(job)
        self.ready = True

    def predict(self, payload: InferRequest, headers: Any = None, response_headers: Any = None) -> InferResponse:
        """One request."""
        del headers, response_headers
        answer = self.run(np.array(payload.inputs[0].as_numpy()))
        output = InferOutput(OUTPUT_NAME, list(answer.shape), "FP32")
        output.set_data_from_numpy(answer, binary_data=True)
        return InferResponse(payload.id or "", self.name, [output])


if __name__ == "__main__":
    given = parse()
    model = Inference(given.job)
    settle()
    server = kserve.ModelServer(
        http_port=given.port + 1, grpc_port=given.port, workers=1, access_log_format=None, enable_docs_url=False
    )
    server.start([model])
