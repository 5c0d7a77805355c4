"""``ModelInfer`` messages to requests, and answers to messages. No I/O.

An answer's message is put together from serialised parts: fields of protobuf messages may come in any order and
pieces, so what does not change from answer to answer is serialised once, and tensors are copied once.
"""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, Final, NamedTuple

from google.protobuf.message import DecodeError

from superserve.errors import InvalidRequestError
from superserve.frontend.grpc.tensors import from_contents, to_contents
from superserve.frontend.parameters import Parameter, infer_request, refuse_classification
from superserve.frontend.sizes import FREE_BYTES, check_infer_message
from superserve.frontend.v2_tensors import MAX_DIMENSIONS, RAW_ONLY, dtype_of
from superserve.model_folder import ModelConfig, TensorSpec
from superserve.protocol.contents import RAW_OUTPUT, raw_parts
from superserve.protocol.messages import ModelInferRequest, ModelInferResponse
from superserve.serving.byte_strings import wire
from superserve.serving.inference import Answer, InferRequest, InputTensor

#: Clients choose among few forms of a response; one that asks for ever new ones must not fill the memory.
_MAX_PLANS: Final = 256
_MAX_HEADS: Final = 4096


class Decoded(NamedTuple):
    """An inference request, and what of its message the response depends on.

    ``typed`` says whether tensors came as typed contents: then they go back so, too.
    """

    model: str
    version: str | None
    id: str
    request: InferRequest
    typed: bool


def decode_infer(data: bytes, slo_ms: float, most_elements: Callable[[str], int] = lambda _: FREE_BYTES) -> Decoded:
    """Read a serialised ``ModelInferRequest``.

    Args:
        data: as received.
        slo_ms: a deadline that the client gave beside it; 0 for none.
        most_elements: how many elements the model of a name takes as the typed contents of an input.

    Raises:
        InvalidRequestError: if it is none, or contradicts itself; the message names the field.
        PayloadTooLargeError: if it is large without its tensors' contents.
    """
    check_infer_message(data)
    try:
        message = ModelInferRequest.FromString(data)
    except DecodeError as error:
        raise InvalidRequestError(f"not a ModelInferRequest: {error}") from None
    raw = message.raw_input_contents
    outputs = message.outputs
    for output in outputs:
        refuse_classification(output.name, _parameters(output.parameters))
    request = infer_request(
        _from_raw(message.inputs, raw) if raw else _from_typed(message.inputs, most_elements(message.model_name)),
        [output.name for output in outputs] or None,
        _parameters(message.parameters) if message.parameters else {},
        slo_ms,
    )
    return Decoded(message.model_name, message.model_version or None, message.id, request, not raw)


def _parameters(parameters: Mapping[str, Any]) -> dict[str, Parameter]:
    values: dict[str, Parameter] = {}
    for name, parameter in parameters.items():
        choice = parameter.WhichOneof("parameter_choice")
        if choice is None:
            raise InvalidRequestError(f"parameters.{name} has no value")
        values[name] = getattr(parameter, choice)
    return values


def _from_raw(inputs: Sequence[Any], raw: Sequence[bytes]) -> list[InputTensor]:
    if len(raw) != len(inputs):
        raise InvalidRequestError(f"raw_input_contents has {len(raw)} entries for {len(inputs)} inputs")
    tensors = []
    for tensor, data in zip(inputs, raw, strict=True):
        shape, dtype = _shape(tensor), dtype_of(tensor.name, tensor.datatype)
        if tensor.HasField("contents"):
            raise InvalidRequestError(f"input {tensor.name!r}: contents and raw_input_contents must not both be given")
        if dtype is not None and len(data) != prod(shape) * dtype.itemsize:
            raise InvalidRequestError(
                f"input {tensor.name!r}: {len(data)} bytes in raw_input_contents, but shape {shape} of "
                f"{tensor.datatype} has {prod(shape) * dtype.itemsize}"
            )
        tensors.append(InputTensor(tensor.name, tensor.datatype, shape, data))
    return tensors


def _from_typed(inputs: Sequence[Any], most_elements: int) -> list[InputTensor]:
    tensors = []
    for tensor in inputs:
        shape = _shape(tensor)
        if prod(shape) > most_elements:
            raise InvalidRequestError(
                f"input {tensor.name!r}: shape {shape} says more elements than the model takes ({most_elements})"
            )
        dtype_of(tensor.name, tensor.datatype)
        data = from_contents(tensor.name, tensor.datatype, prod(shape), tensor.contents)
        tensors.append(InputTensor(tensor.name, tensor.datatype, shape, data))
    return tensors


def _shape(tensor: Any) -> list[int]:
    if len(tensor.shape) > MAX_DIMENSIONS:
        raise InvalidRequestError(f"input {tensor.name!r}: more than {MAX_DIMENSIONS} dimensions")
    shape = list(tensor.shape)
    if any(size < 0 for size in shape):
        raise InvalidRequestError(f"input {tensor.name!r}: shape {shape} has a negative dimension")
    return shape


class ResponsePlan:
    """One form of response: which outputs, in which order, typed or raw.

    Args:
        config: the model.
        wanted: positions of the outputs.
        typed: whether they go as typed contents.
        subnets: the parameters that tell of each subnet.
    """

    def __init__(
        self,
        config: ModelConfig,
        wanted: Sequence[int],
        subnets: Sequence[Mapping[str, Parameter]],
        *,
        typed: bool,
    ) -> None:
        self._config = config
        self._wanted: list[tuple[int, TensorSpec]] = [(position, config.outputs[position]) for position in wanted]
        self._typed = typed
        self._subnets = subnets
        self._heads: dict[tuple[int, int], bytes] = {}

    def encode(self, request_id: str, answer: Answer) -> bytes:
        """A serialised ``ModelInferResponse``."""
        rest = ModelInferResponse(id=request_id)
        parameters = rest.parameters
        parameters["superserve_batch_size"].int64_param = answer.batch_rows
        parameters["superserve_decode_us"].int64_param = answer.decode_us
        parameters["superserve_queue_us"].int64_param = answer.queue_us
        parameters["superserve_wait_us"].int64_param = answer.wait_us
        parameters["superserve_infer_us"].int64_param = answer.infer_us
        parameters["slo_met"].bool_param = answer.slo_met
        if self._typed:
            return self._head(answer, typed=True) + bytes(rest.SerializeToString())
        key = answer.rows, answer.subnet
        head = self._heads.get(key)
        if head is None:
            if len(self._heads) >= _MAX_HEADS:
                self._heads.clear()
            head = self._heads[key] = self._head(answer, typed=False)
        tensors = [wire(answer.outputs[position], spec) for position, spec in self._wanted]
        return b"".join((head, rest.SerializeToString(), *raw_parts(RAW_OUTPUT, tensors)))

    def _head(self, answer: Answer, *, typed: bool) -> bytes:
        """Everything but the request's own numbers and raw tensors."""
        head = ModelInferResponse(model_name=self._config.name, model_version=self._config.version)
        for name, value in self._subnets[answer.subnet].items():
            parameter = head.parameters[name]
            if isinstance(value, bool):
                parameter.bool_param = value
            elif isinstance(value, str):
                parameter.string_param = value
            else:
                parameter.double_param = value
        for position, spec in self._wanted:
            output = head.outputs.add(name=spec.name, datatype=spec.datatype, shape=[answer.rows, *spec.row_shape])
            if typed:
                output.contents.CopyFrom(to_contents(answer.outputs[position], spec))
        return bytes(head.SerializeToString())


class ResponseEncoder:
    """Encodes the answers of one model.

    Args:
        config: the model's name, version and output tensors.
        subnets: the parameters that tell of each subnet, by front index.
    """

    def __init__(self, config: ModelConfig, subnets: Sequence[Mapping[str, Parameter]]) -> None:
        self._config = config
        self._positions = {spec.name: position for position, spec in enumerate(config.outputs)}
        self._subnets = subnets
        self._has_typed = not any(spec.datatype in RAW_ONLY for spec in config.outputs)
        self._plans: dict[tuple[tuple[str, ...], bool], ResponsePlan] = {}

    def plan(self, decoded: Decoded) -> ResponsePlan:
        """The form of the response that a request asks for; its output names must be the model's."""
        names = decoded.request.outputs or ()
        key = (tuple(names), decoded.typed)
        plan = self._plans.get(key)
        if plan is None:
            if len(self._plans) >= _MAX_PLANS:
                self._plans.clear()
            wanted = [self._positions[name] for name in names] or range(len(self._positions))
            typed = decoded.typed and self._has_typed
            plan = self._plans[key] = ResponsePlan(self._config, wanted, self._subnets, typed=typed)
        return plan
