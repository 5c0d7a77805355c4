"""Model folders made up for tests that run no model."""

from pathlib import Path

import numpy as np

from superserve.model_folder import FRONT_FILE, NORMS_FILE, WEIGHTS_FILE, ModelConfig, TensorSpec, write_json


def write_digits_like_folder(folder: Path, name: str = "digits") -> Path:
    """A folder with the tensors and test data of a digits model and empty weights: enough for emulated workers."""
    folder.mkdir(parents=True, exist_ok=True)
    config = ModelConfig(
        format=1,
        name=name,
        family="none",
        architecture={},
        task="image classification",
        dataset="random",
        labels=tuple("0123456789"),
        inputs=(TensorSpec("image", "UINT8", (-1, 8, 8)),),
        outputs=(TensorSpec("logits", "FP32", (-1, 10)),),
        preprocessing={},
    )
    write_json(folder / "config.json", config)
    for file in (FRONT_FILE, WEIGHTS_FILE, NORMS_FILE):
        (folder / file).touch()
    rng = np.random.default_rng(0)
    np.savez(
        folder / "test.npz", inputs=rng.integers(0, 17, (100, 8, 8), dtype=np.uint8), labels=rng.integers(0, 10, 100)
    )
    return folder
