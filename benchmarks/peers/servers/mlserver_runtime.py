"""The runtime that ``mlserver_server.py`` names."""

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from peers.jobs import OUTPUT_NAME, job_named
from peers.model import load_model


class Inference(MLModel):
    """The model."""

    async def load(self) -> bool:
        """Load it."""
        self.run = load_model(job_named(self.settings.parameters.extra["job"]))
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Run a request, or several that the server batched."""
        image = np.array(NumpyCodec.decode_input(payload.inputs[0]))
        output = NumpyCodec.encode_output(OUTPUT_NAME, self.run(image))
        return InferenceResponse(model_name=self.name, outputs=[output])
