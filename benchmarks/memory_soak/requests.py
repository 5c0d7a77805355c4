"""The model that the soak asks, and the bytes of its requests: several sizes, binary and JSON, HTTP and gRPC."""

import json
from pathlib import Path
from typing import Any, Final

import numpy as np

from superserve.client.address import Address
from superserve.client.wire import InferBody, model_path, request_head
from superserve.model_folder import ModelConfig, TensorSpec, write_json
from superserve.profile import Device, Profile, SubnetProfile
from superserve.protocol.messages import ModelInferRequest

MODEL: Final = "soak"
#: Rows of a request, each of 3 kB; a batch has room for the largest.
ROWS: Final = (1, 2, 4, 8, 16)
#: None is to be late: a busy machine is no reason to fail.
SLO_MS: Final = "30000"
#: Of HTTP requests, with their tensor as JSON.
JSON_SHARE: Final = 0.02
_INPUT: Final = TensorSpec("image", "UINT8", (-1, 32, 32, 3))
_OUTPUT: Final = TensorSpec("logits", "FP32", (-1, 1000))
#: Emulated workers take this for a batch, in microseconds: short, since it is the path around them that is looked at.
_BATCH_US: Final = 300.0


def write_model(folder: Path) -> tuple[Path, Path]:
    """A model folder for emulated workers, and the profile that they emulate."""
    config = ModelConfig(
        format=1,
        name=MODEL,
        family="none",
        architecture={},
        task="none",
        dataset="none",
        labels=(),
        inputs=(_INPUT,),
        outputs=(_OUTPUT,),
        preprocessing={},
        max_batch_size=ROWS[-1],
    )
    row = (_BATCH_US,) * len(ROWS)
    subnets = (SubnetProfile(id="s0", accuracy=100.0, p50_us=row, p95_us=row, p99_us=row),)
    device = Device(name=MODEL, kind="fixture", threads=1, engine="none", dtype="none", torch="none")
    profile = Profile(device=device, model_hash=MODEL, batches=ROWS, dispatch_overhead_us=100.0, subnets=subnets)
    model, file = folder / MODEL, folder / "profile.json"
    model.mkdir()
    write_json(model / "config.json", config)
    write_json(file, profile)
    return model, file


def http_requests(url: str) -> tuple[list[bytes], list[bytes]]:
    """With binary tensors, one per size; and with JSON, of one and two rows."""
    address = Address.parse(url)
    binary = [_binary(address, _rows(count)) for count in ROWS]
    return binary, [_json(address, _rows(count)) for count in ROWS[:2]]


def grpc_requests() -> list[bytes]:
    """With raw contents, one per size."""
    found = []
    for count in ROWS:
        rows = _rows(count)
        tensor = {"name": _INPUT.name, "datatype": "UINT8", "shape": rows.shape}
        message = ModelInferRequest(model_name=MODEL, inputs=[tensor], raw_input_contents=[rows.tobytes()])
        found.append(message.SerializeToString())
    return found


def _rows(count: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(count).integers(0, 256, (count, *_INPUT.row_shape), dtype=np.uint8)


def _binary(address: Address, rows: np.ndarray[Any, Any]) -> bytes:
    body = InferBody({_INPUT.name: rows})
    header = body.header({})
    headers = {"Inference-Header-Content-Length": str(len(header)), "x-slo-ms": SLO_MS}
    head = request_head(address, model_path(MODEL, "infer"), len(header) + rows.nbytes, headers)
    return head + header + rows.tobytes()


def _json(address: Address, rows: np.ndarray[Any, Any]) -> bytes:
    tensor = {"name": _INPUT.name, "datatype": "UINT8", "shape": rows.shape, "data": rows.ravel().tolist()}
    body = json.dumps({"inputs": [tensor]}).encode()
    return request_head(address, model_path(MODEL, "infer"), len(body), {"x-slo-ms": SLO_MS}) + body
