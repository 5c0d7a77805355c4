"""A subnet on its own: extracted, in plain torch, onnxruntime or openvino. What one would serve without a supernet."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors.torch import load_file

from subnetact.families import request
from superserve.model_folder import ModelConfig, ModelFolder
from superserve.supernet.hub import load_supernet
from superserve.supernet.runtimes.export import Exportable, StaticSubnet, export_onnx, static_subnet
from superserve.supernet.runtimes.installed import DTYPES, installed
from superserve.supernet.runtimes.sessions import FILES, Session, open_session, write_openvino

Arrays = list[np.ndarray[Any, Any]]
Run = Callable[[Arrays], Any]
"""Request tensors to logits."""

RUNTIMES: Final = tuple(DTYPES)
NOT_INSTALLED: Final = "not installed"


def empty_subnet(folder: ModelFolder, index: int) -> StaticSubnet:
    """The modules of an extracted subnet without memory for its weights, for `load_private`."""
    supernet = load_supernet(folder)
    return static_subnet(replace(supernet, network=supernet.network.to("meta")), index)


def load_private(model: StaticSubnet, path: Path) -> None:
    """Weights and statistics from a file into memory of this process alone, in place of what was there."""
    model.load_state_dict({name: tensor.clone() for name, tensor in load_file(path).items()}, assign=True)


def missing() -> dict[str, str]:
    """The runtimes that are not installed here."""
    return {name: NOT_INSTALLED for name in RUNTIMES if name not in installed("float32")}


def export(subnet: StaticSubnet, config: ModelConfig, path: Path) -> None:
    """Write a subnet into a folder, for the runtimes that are installed here."""
    path.mkdir(exist_ok=True)
    exported = path / FILES["onnxruntime"][0]
    example = tuple(torch.from_numpy(array) for array in request(config, 2))
    export_onnx(Exportable(subnet, tuple(tensor.name for tensor in config.inputs), example, ()), exported)
    if "openvino" in installed("float32"):
        write_openvino(exported, path)


def sessions(path: Path) -> Iterator[tuple[str, Run]]:
    """The static runtimes that are installed here, by name, on a subnet that was exported into a folder."""
    for dtype, short in (("float32", "fp32"), ("bfloat16", "bf16")):
        for runtime in installed(dtype):
            yield f"{runtime} {short}", _logits(open_session(runtime, dtype, path))


def _logits(session: Session) -> Run:
    return lambda arrays: session(arrays)[0]
