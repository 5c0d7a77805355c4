"""A small text classifier with random weights, as a model folder."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from superserve.model_folder import FORMAT, Front, ModelConfig, ModelFolder, SubnetRecord, TensorSpec
from superserve.supernet.hub import save_supernet
from superserve.supernet.network import Supernet
from superserve.supernet.text import TextPreprocessing
from superserve.supernet.zoo.dynabert import DynaBert, DynaBertConfig

PREPROCESSING = TextPreprocessing(pieces="[PAD] [UNK] [CLS] how much is my bill ##s ? pay it now", lengths=(4, 8, 12))
INPUT = TensorSpec("text", "BYTES", (-1, 1), max_bytes=64)

ARCHITECTURE = DynaBertConfig(
    classes=3,
    vocabulary=13,
    hidden=16,
    layers=2,
    heads=4,
    neurons=32,
    positions=12,
    token_types=1,
    width_ratios=(0.25, 1.0),
    depth_ratios=(0.5, 1.0),
)


def text_config() -> ModelConfig:
    return ModelConfig(
        format=FORMAT,
        name="bills",
        family="dynabert",
        architecture=msgspec.to_builtins(ARCHITECTURE),
        task="text-classification",
        dataset="none",
        labels=("ask", "pay", "other"),
        inputs=(INPUT,),
        outputs=(TensorSpec("logits", "FP32", (-1, 3)),),
        preprocessing=msgspec.to_builtins(PREPROCESSING),
        max_batch_size=8,
    )


def text_supernet() -> Supernet:
    """Three subnets: the smallest, one between, the largest."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = DynaBert(ARCHITECTURE).requires_grad_(requires_grad=False).eval()
    specs = (network.space.smallest(), network.dynabert_spec(0.5, 1.0), network.space.largest())
    records = tuple(
        SubnetRecord(id=f"s{place}", spec=spec, accuracy=50.0 + place, accuracy_n=10)
        for place, spec in enumerate(specs)
    )
    front = Front(format=FORMAT, measured_on="nothing", subnets=records)
    return Supernet(text_config(), front, network, {record.id: {} for record in records})


def save_texts(folder: Path) -> ModelFolder:
    """A model folder with a few test texts of its own."""
    texts = np.array([[b"how much is my bill?"], [b"pay it now"], ["¿qué?".encode()]])
    return save_supernet(text_supernet(), folder, test=(texts, np.array([0, 1, 2])))


def cells(*texts: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.void]]:
    """Texts as a batch of `INPUT`."""
    return INPUT.packed(np.array(texts, object)[:, None])


def padded_length(batch: np.ndarray[Any, Any]) -> int:
    """What a worker pads a batch of cells to, in pieces."""
    numbers, _ = PREPROCESSING.build()([torch.from_numpy(batch[..., None].view(np.uint8))])
    return numbers.shape[1]
