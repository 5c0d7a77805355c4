"""Triton Inference Server through its Python wheel (pytriton), with its dynamic batcher."""

from typing import Any

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from peers.jobs import OUTPUT_NAME
from peers.model import load_model
from peers.servers.arguments import parse


def main() -> None:
    """Serve until told to stop."""
    given = parse()
    job, model = given.job, load_model(given.job)

    @batch
    def infer(**inputs: Any) -> dict[str, Any]:
        (rows,) = inputs.values()  # its name is the model's
        return {OUTPUT_NAME: model(np.array(rows))}

    config = TritonConfig(
        http_address="127.0.0.1",
        http_port=given.port,
        grpc_address="127.0.0.1",
        grpc_port=given.port + 1,
        metrics_port=given.port + 2,
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name=job.model,
            infer_func=infer,
            inputs=[Tensor(name=job.input_name, dtype=np.uint8, shape=job.row_shape)],
            outputs=[Tensor(name=OUTPUT_NAME, dtype=np.float32, shape=(job.values,))],
            config=ModelConfig(
                max_batch_size=given.rows, batcher=DynamicBatcher(max_queue_delay_microseconds=given.wait_us)
            ),
        )
        triton.serve()


if __name__ == "__main__":
    main()
