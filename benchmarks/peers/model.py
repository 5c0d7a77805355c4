"""The model of a job as a plain function of a batch: what all servers but ours call."""

from collections.abc import Callable
from typing import Any

import numpy as np

from peers.jobs import MIDDLE, NOOP, OUTPUT_VALUES, Job

Array = np.ndarray[Any, Any]
Model = Callable[[Array], Array]


def load_model(job: Job) -> Model:
    """UINT8 (n, *row_shape) to FP32 (n, values); anything but the no-op is a subnet of a bundled model, extracted."""
    return noop if job.name == NOOP.name else extracted_subnet(job)


def noop(batch: Array) -> Array:
    """Zeros."""
    return np.zeros((len(batch), OUTPUT_VALUES), np.float32)


def extracted_subnet(job: Job) -> Model:
    """The subnet from plain torch layers, run as our own eager engine runs it: channels_last, one thread."""
    import torch  # noqa: PLC0415  (the no-op servers have no use for it)

    from superserve.model_folder import ModelFolder  # noqa: PLC0415
    from superserve.supernet.engine import run_network  # noqa: PLC0415
    from superserve.supernet.extract import extract  # noqa: PLC0415
    from superserve.supernet.hub import load_supernet  # noqa: PLC0415
    from superserve.supernet.preprocess import parse_preprocessing  # noqa: PLC0415

    torch.set_num_threads(1)
    supernet = load_supernet(ModelFolder.resolve(job.model))
    subnets = supernet.front.subnets
    record = subnets[len(subnets) // 2] if job.subnet == MIDDLE else {each.id: each for each in subnets}[job.subnet]
    network = extract(supernet.network, record.spec, supernet.statistics[record.id])
    preprocess = parse_preprocessing(supernet.config.preprocessing).build()

    @torch.inference_mode()
    def run(batch: Array) -> Array:
        logits: Array = run_network(network, preprocess, [torch.from_numpy(batch)], torch.float32).numpy()
        return logits

    return run
