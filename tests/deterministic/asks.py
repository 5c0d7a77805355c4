"""What clients ask, and what becomes of it as they see it."""

from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import numpy as np

from deterministic.model import NAMES, compute, inputs_of
from superserve.clock import NS_PER_US

#: Workers that may be lost with a request before it counts as the reason; more where it has no time to run alone.
MAX_LOSSES: Final = 2

_DATATYPES: Final = (("tag", "UINT32"), ("row", "UINT32"))
_encode = msgspec.json.encode


@dataclass(eq=False, kw_only=True)
class Ask:
    """One infer request.

    Attributes:
        arrival_ns: when the server had all of it; None until then.
        status: of the response, 0 before it, like ``body``; ``outcome``: what its header says; ``answered_ns``: when.
        gone_ns: when its client had left, or the connection was closed; None until then.
        launches: how many batches have run it; ``losses``: how many workers were lost with it.
        done_ns: when a worker had answered it, which its client may hear of later, behind earlier answers.
        may_fail: whether there is a reason to answer it with 500.
    """

    tag: int
    model: str
    rows: int = 1
    timeout_us: int = 50_000
    floor: float = 0.0
    priority: int = 0
    binary: bool = True
    padding: int = 0
    """Bytes of its body that mean nothing."""
    arrival_ns: int | None = None
    status: int = 0
    outcome: str = ""
    answered_ns: int = 0
    body: bytes = b""
    gone_ns: int | None = None
    launches: int = 0
    losses: int = 0
    done_ns: int = 0
    may_fail: bool = False

    @property
    def deadline_ns(self) -> int:
        """When it has to be answered."""
        assert self.arrival_ns is not None
        return self.arrival_ns + self.timeout_us * NS_PER_US

    @property
    def ended(self) -> bool:
        """Whether it must not be run any more."""
        return self.gone_ns is not None or self.status != 0

    def encode(self) -> bytes:
        """The HTTP request."""
        arrays = inputs_of(self.tag, self.rows)
        tensors = []
        for (name, datatype), array in zip(_DATATYPES, arrays, strict=True):
            tensor: dict[str, Any] = {"name": name, "datatype": datatype, "shape": [self.rows]}
            tensors.append(
                tensor
                | ({"parameters": {"binary_data_size": array.nbytes}} if self.binary else {"data": array.tolist()})
            )
        parameters: dict[str, Any] = {
            "timeout": self.timeout_us,
            "priority": self.priority,
            "superserve_min_accuracy": self.floor,
            "binary_data_output": self.binary,
        }
        if self.padding:
            parameters["nothing"] = "." * self.padding
        json = _encode({"id": f"{self.tag}", "parameters": parameters, "inputs": tensors})
        body = b"".join((json, *(array.tobytes() for array in arrays))) if self.binary else json
        length = b"Inference-Header-Content-Length: %d\r\n" % len(json) if self.binary else b""
        return b"POST /v2/models/%b/infer HTTP/1.1\r\nHost: memory\r\nContent-Length: %d\r\n%b\r\n%b" % (
            self.model.encode(),
            len(body),
            length,
            body,
        )


@dataclass
class Response:
    """An HTTP response."""

    status: int = 0
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""


class _Output(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    data: list[int] | None = None


class _Parameters(msgspec.Struct):
    superserve_subnet: str
    superserve_accuracy: float
    superserve_batch_size: int
    slo_met: bool


class _Answer(msgspec.Struct):
    model_name: str
    id: str
    parameters: _Parameters
    outputs: list[_Output]


_decode = msgspec.json.Decoder(_Answer).decode


def complaint(ask: Ask, response: Response) -> str:
    """What is wrong with a response; empty if nothing is."""
    if response.status == 200:
        return _wrong_answer(ask, response)
    if b"error" not in response.body:
        return "an error without a word"
    if response.status == 500 and not ask.may_fail and ask.losses < MAX_LOSSES:
        return f"failed, though nothing was wrong with it: {response.body!r}"
    if response.status in {429, 503} and b"retry-after" not in response.headers:
        return "no Retry-After"
    if response.status not in {400, 408, 413, 429, 500, 503, 504, *((404,) if ask.model == NAMES[-1] else ())}:
        return f"status {response.status}"
    return ""


def _wrong_answer(ask: Ask, response: Response) -> str:
    if ask.arrival_ns is None or not ask.launches:
        return "answered without being asked or run"
    length = int(response.headers.get(b"inference-header-content-length", len(response.body)))
    answer = _decode(response.body[:length])
    told = answer.parameters
    if (answer.id, answer.model_name) != (f"{ask.tag}", ask.model):
        return f"somebody else's answer: {answer.id} of {answer.model_name}"
    if _rows_differ(ask, answer, response.body[length:]):
        return "wrong rows"
    if told.superserve_accuracy < ask.floor:
        return f"an accuracy of {told.superserve_accuracy} below its floor"
    if told.slo_met is not (ask.done_ns <= ask.deadline_ns):
        return f"slo_met is {told.slo_met}, {ask.done_ns - ask.deadline_ns} ns after the deadline"
    return ""


def _rows_differ(ask: Ask, answer: _Answer, tensors: bytes) -> bool:
    """Whether they are other rows than those of the request, run by the subnet that the answer names."""
    expected = compute(inputs_of(ask.tag, ask.rows), int(answer.parameters.superserve_subnet.removeprefix("s")))
    if ask.binary:
        return tensors != b"".join(array.tobytes() for array in expected)
    return [output.data for output in answer.outputs] != [np.ravel(array).tolist() for array in expected]
