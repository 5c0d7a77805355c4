"""A subnet on its own: extracted, in plain torch, onnxruntime or openvino. What one would serve without a supernet."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from superserve.model_folder import ModelFolder
from superserve.supernet.engine import channels_last
from superserve.supernet.extract import extract
from superserve.supernet.hub import load_supernet
from superserve.supernet.network import Supernet
from superserve.supernet.preprocess import Preprocessor, parse_preprocessing

Arrays = list[np.ndarray[Any, Any]]
Run = Callable[[Arrays], Any]
"""Request tensors to logits."""

RUNTIMES: Final = ("onnxruntime", "openvino")
NOT_INSTALLED: Final = "not installed"

_OPSET: Final = 17


class StaticSubnet(nn.Module):
    """An extracted subnet with its preprocessing: request tensors to logits.

    Args:
        subnet: as `extract` makes it.
        preprocess: of the model.
        dtype: of its weights and activations.
    """

    def __init__(self, subnet: nn.Module, preprocess: Preprocessor, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.subnet = subnet.to(dtype)
        self._preprocess = preprocess
        self._dtype = dtype

    def forward(self, *inputs: Tensor) -> Tensor:
        """Request tensors to logits, float32."""
        arguments = [channels_last(x) for x in self._preprocess(inputs)]
        logits: Tensor = self.subnet(*(x.to(self._dtype) if x.is_floating_point() else x for x in arguments))
        return logits.float()

    @torch.inference_mode()
    def run(self, arrays: Arrays) -> np.ndarray[Any, Any]:
        """Logits of a request."""
        return self(*(torch.from_numpy(array) for array in arrays)).numpy()  # type: ignore[no-any-return]


def static_subnet(supernet: Supernet, index: int, dtype: torch.dtype = torch.float32) -> StaticSubnet:
    """A subnet of the front, extracted, its convolutions in channels_last as its activations are."""
    record = supernet.front.subnets[index]
    plain = extract(supernet.network, record.spec, supernet.statistics[record.id])
    plain.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return StaticSubnet(plain, parse_preprocessing(supernet.config.preprocessing).build(), dtype).eval()


def empty_subnet(folder: ModelFolder, index: int) -> StaticSubnet:
    """The modules of an extracted subnet without memory for its weights, for `load_private`."""
    supernet = load_supernet(folder)
    return static_subnet(replace(supernet, network=supernet.network.to("meta")), index)


def load_private(model: StaticSubnet, path: Path) -> None:
    """Weights and statistics from a file into memory of this process alone, in place of what was there."""
    model.load_state_dict({name: tensor.clone() for name, tensor in load_file(path).items()}, assign=True)


def installed(runtime: str) -> bool:
    """Whether a runtime can be imported here."""
    return find_spec(runtime) is not None


def export_onnx(subnet: StaticSubnet, inputs: Sequence[str], example: Arrays, path: Path) -> Path:
    """Write a subnet for onnxruntime and openvino, with a dynamic number of rows."""
    arguments = tuple(torch.from_numpy(array) for array in example)
    with warnings.catch_warnings(), torch.no_grad():
        # The exporter by tracing: torch calls it old, and it is the one that gives these runtimes what they fuse best.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            subnet,
            arguments,
            str(path),
            input_names=list(inputs),
            output_names=["logits"],
            dynamic_axes={name: {0: "rows"} for name in (*inputs, "logits")},
            opset_version=_OPSET,
            dynamo=False,
        )
    return path


def onnxruntime_session(path: Path) -> Run:
    """A session of one thread."""
    import onnxruntime as ort  # noqa: PLC0415 (only in the benchmark's environment)

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [tensor.name for tensor in session.get_inputs()]
    return lambda arrays: session.run(None, dict(zip(names, arrays, strict=True)))[0]


def openvino_session(path: Path, dtype: str = "f32") -> Run:
    """A compiled model of one thread, for latency, computing in ``f32`` or ``bf16``."""
    import openvino as ov  # noqa: PLC0415 (only in the benchmark's environment)

    settings = {
        "INFERENCE_NUM_THREADS": 1,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": dtype,
        "ENABLE_CPU_PINNING": False,
    }
    compiled = ov.Core().compile_model(str(path), "CPU", settings)
    infer = compiled.create_infer_request()
    return lambda arrays: infer.infer(arrays)[0]
