"""Open Inference Protocol V2 over HTTP: answers to bodies (requests: ``v2.py``). No I/O."""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np

from superserve.errors import InvalidRequestError
from superserve.frontend.parameters import Parameter
from superserve.frontend.v2 import Decoded
from superserve.frontend.v2_tensors import RAW_ONLY
from superserve.model_folder import BYTES, ModelConfig, TensorSpec
from superserve.serving.byte_strings import from_cells, wire
from superserve.serving.inference import Answer
from superserve.serving.pool import Buffer

#: Clients choose among few forms of a response; one that asks for ever new ones must not fill the memory.
_MAX_PLANS: Final = 256

_JSON: Final = (
    b'%b%d,"superserve_decode_us":%d,"superserve_queue_us":%d,"superserve_wait_us":%d,"superserve_infer_us":%d,'
    b'"slo_met":%b},"outputs":[%b'
)


class _Wanted(NamedTuple):
    position: int
    spec: TensorSpec
    binary: bool


class Encoded(NamedTuple):
    """A response body: JSON, then the binary tensors, which are views of the answer that was encoded."""

    json: bytes
    tensors: Sequence[Buffer]


class ResponsePlan:
    """One form of response: which outputs, in which order, and which of them beside the JSON.

    Args:
        wanted: the outputs.
        prefix: the start of the JSON, up to the request's id.
        subnets: the JSON of each subnet's parameters.
    """

    def __init__(self, wanted: Sequence[_Wanted], prefix: bytes, subnets: Sequence[bytes]) -> None:
        self._wanted = wanted
        self._prefix = prefix
        self._subnets = subnets
        self._starts = [prefix + subnet for subnet in subnets]
        self._binary_positions = [item.position for item in wanted if item.binary]
        self._strings = any(item.spec.datatype == BYTES for item in wanted)
        self._sizes_known = all(item.binary for item in wanted) and not self._strings
        self._tails: dict[int, bytes] = {}

    def encode(self, request_id: str, answer: Answer) -> Encoded:
        """The body of a response."""
        outputs = answer.outputs
        tensors: list[Buffer] = [outputs[position] for position in self._binary_positions]
        if self._strings:
            tensors = [wire(outputs[item.position], item.spec) for item in self._wanted if item.binary]
        start = self._starts[answer.subnet]
        if request_id:
            start = self._prefix + b'"id":' + msgspec.json.encode(request_id) + b"," + self._subnets[answer.subnet]
        json = _JSON % (
            start,
            answer.batch_rows,
            answer.decode_us,
            answer.queue_us,
            answer.wait_us,
            answer.infer_us,
            b"true" if answer.slo_met else b"false",
            self._tails.get(answer.rows) or self._tail(answer),
        )
        return Encoded(json, tensors)

    def _tail(self, answer: Answer) -> bytes:
        tail = b",".join(_output_json(item, answer) for item in self._wanted) + b"]}"
        if self._sizes_known:  # then it depends on the number of rows only
            self._tails[answer.rows] = tail
        return tail


class ResponseEncoder:
    """Encodes the answers of one model. What does not change from answer to answer is encoded once.

    Args:
        config: the model's name, version and output tensors.
        subnets: the parameters that tell of each subnet, by front index.
    """

    def __init__(self, config: ModelConfig, subnets: Sequence[Mapping[str, Parameter]]) -> None:
        self._specs = config.outputs
        self._positions = {spec.name: position for position, spec in enumerate(config.outputs)}
        self._prefix = msgspec.json.encode({"model_name": config.name, "model_version": config.version})[:-1] + b","
        self._subnets = [
            b'"parameters":' + msgspec.json.encode(parameters)[:-1] + b',"superserve_batch_size":'
            for parameters in subnets
        ]
        self._plans: dict[tuple[tuple[str, ...] | None, tuple[bool, ...]], ResponsePlan] = {}

    def plan(self, decoded: Decoded) -> ResponsePlan:
        """The form of the response that a request asks for; its output names must be the model's.

        Raises:
            InvalidRequestError: for FP16 or BF16 as JSON, which the protocol does not have.
        """
        names = decoded.request.outputs
        key = (None if names is None else tuple(names), decoded.binary)
        plan = self._plans.get(key)
        if plan is None:
            if len(self._plans) >= _MAX_PLANS:
                self._plans.clear()
            plan = self._plans[key] = ResponsePlan(self._wanted(decoded), self._prefix, self._subnets)
        return plan

    def _wanted(self, decoded: Decoded) -> list[_Wanted]:
        names = decoded.request.outputs
        if names is None:
            wanted = [_Wanted(index, spec, decoded.binary[0]) for index, spec in enumerate(self._specs)]
        else:
            positions = [self._positions[name] for name in names]
            wanted = [
                _Wanted(position, self._specs[position], binary)
                for position, binary in zip(positions, decoded.binary, strict=True)
            ]
        for _, spec, binary in wanted:
            if spec.datatype in RAW_ONLY and not binary:
                raise InvalidRequestError(
                    f"output {spec.name!r}: {spec.datatype} has no JSON form: set its parameters.binary_data to true"
                )
        return wanted


def _output_json(wanted: _Wanted, answer: Answer) -> bytes:
    spec = wanted.spec
    view = answer.outputs[wanted.position]
    output: dict[str, object] = {
        "name": spec.name,
        "datatype": spec.datatype,
        "shape": [answer.rows, *spec.row_shape],
    }
    if wanted.binary:
        output["parameters"] = {"binary_data_size": len(wire(view, spec))}
    elif spec.datatype == BYTES:  # JSON holds text: what is none comes back whole only as binary data
        output["data"] = [element.decode("utf-8", "replace") for element in from_cells(view, spec)]
    else:
        output["data"] = np.frombuffer(view, spec.dtype).tolist()
    return msgspec.json.encode(output)
