"""Model folders of converted models."""

from pathlib import Path
from typing import Any

import numpy as np

from superserve.model_folder import FORMAT, Front, ModelConfig, ModelFolder, SubnetRecord, TensorSpec
from superserve.supernet.conversion import Conversion
from superserve.supernet.hub import save_supernet


def save_converted(
    conversion: Conversion, path: Path, inputs: TensorSpec, classes: int, **architecture: Any
) -> ModelFolder:
    """Save a converted classifier with a front of its smallest, its largest and some subnet.

    Args:
        conversion: of the classifier.
        path: where the folder shall be.
        inputs: of the model.
        classes: how many it tells apart.
        architecture: see `Conversion.architecture`.
    """
    space, rng = conversion.space, np.random.default_rng(0)
    specs = [space.smallest(), space.sample(rng), space.largest()]
    records = tuple(
        SubnetRecord(id=f"s{i}", spec=spec, accuracy=60.0 + i, accuracy_n=100) for i, spec in enumerate(specs)
    )
    config = ModelConfig(
        format=FORMAT,
        name="mine",
        family="converted",
        architecture=conversion.architecture(**architecture),
        task="classification",
        dataset="random",
        labels=tuple(str(label) for label in range(classes)),
        inputs=(inputs,),
        outputs=(TensorSpec("logits", "FP32", (-1, classes)),),
        preprocessing={"type": "none"},
    )
    front = Front(format=FORMAT, measured_on="nothing", subnets=records)
    return save_supernet(conversion.supernet(config, front), path)
