"""Bodies of the HTTP protocol, described for its OpenAPI document.

What the server says of itself and its models is described by the values that it is made from (``serving/metadata.py``,
``serving/statistics.py``). Inference is not: requests are read without these structs and responses are put together
from bytes (``v2.py``, ``v2_response.py``); the tests hold both against this file.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from superserve.frontend.parameters import Parameter

Datatype = Literal[
    "BOOL",
    "UINT8",
    "UINT16",
    "UINT32",
    "UINT64",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "FP16",
    "FP32",
    "FP64",
    "BF16",
    "BYTES",
]
Shape = Annotated[
    list[Annotated[int, Meta(ge=0, le=2**63 - 1)]],
    Meta(description="The leading dimension is rows; batch-mates share the others."),
]
Data = Annotated[
    list[Any],
    Meta(description="The elements, flat or nested as deeply as the shape; FP16 and BF16 have no such form."),
]
Parameters = Annotated[dict[str, Parameter], Meta(description="Further parameters are ignored.")]


class InferInput(Struct, omit_defaults=True):
    """An input tensor: its elements in `data`, or `parameters.binary_data_size` bytes behind the JSON."""

    name: str
    datatype: Datatype
    shape: Shape
    parameters: Parameters = {}
    data: Data = []


class InferRequestedOutput(Struct, omit_defaults=True):
    """An output that is wanted; `parameters.binary_data` sends it behind the JSON."""

    name: str
    parameters: Parameters = {}


class InferRequest(Struct, omit_defaults=True):
    """An inference request."""

    inputs: list[InferInput]
    id: Annotated[str, Meta(description="Comes back in the answer.")] = ""
    parameters: Annotated[
        dict[str, Parameter] | None,
        Meta(
            description="`timeout`: deadline in microseconds from arrival (integer). `priority`: 1 is the most urgent, "
            "larger numbers are given up first (integer). `superserve_min_accuracy`: no subnet below this accuracy, in "
            "per cent, may answer (number). `binary_data_output`: whether outputs go behind the JSON (boolean). Other "
            "names that begin with `superserve_` are refused."
        ),
    ] = None
    outputs: Annotated[
        list[InferRequestedOutput] | None, Meta(description="The outputs that are wanted; without it all.")
    ] = None


class InferOutputParameters(Struct):
    """Says that an output stands behind the JSON."""

    binary_data_size: int


class InferOutput(Struct, omit_defaults=True):
    """An output tensor: its elements in `data`, or `parameters.binary_data_size` bytes behind the JSON."""

    name: str
    datatype: Datatype
    shape: Shape
    parameters: InferOutputParameters | None = None
    data: Data | None = None


class InferAnswerParameters(Struct, omit_defaults=True):
    """How an answer came about."""

    superserve_subnet: Annotated[str, Meta(description="Id of the subnet that answered.")]
    superserve_accuracy: Annotated[float, Meta(description="Its profiled accuracy, in per cent.")]
    superserve_batch_size: Annotated[int, Meta(description="Rows of the batch.")]
    superserve_decode_us: Annotated[int, Meta(description="Microseconds until the request was read and checked.")]
    superserve_queue_us: Annotated[int, Meta(description="Microseconds until its batch was launched, that included.")]
    superserve_wait_us: Annotated[int, Meta(description="Microseconds on the way to the worker and back.")]
    superserve_infer_us: Annotated[int, Meta(description="Microseconds that the model ran.")]
    slo_met: Annotated[bool, Meta(description="Whether it was in time.")]
    superserve_emulated: Annotated[bool, Meta(description="Outputs mean nothing: no model ran.")] = False


class InferAnswer(Struct, omit_defaults=True):
    """An inference response."""

    model_name: str
    model_version: str
    parameters: InferAnswerParameters
    outputs: list[InferOutput]
    id: str = ""


class Live(Struct):
    """Whether the process answers."""

    live: bool


class Ready(Struct):
    """Whether every model would admit a request."""

    ready: bool


class ModelReady(Struct):
    """Whether a model would admit a request."""

    name: str
    ready: bool


class RepositoryRequest(Struct, omit_defaults=True):
    """What is asked of the model repository; may be left out."""

    ready: Annotated[bool, Meta(description="Index: only models that are ready.")] = False
    parameters: Annotated[
        dict[str, Any], Meta(description="`unload_dependents` is ignored, everything else is refused.")
    ] = {}


class Done(Struct):
    """Nothing more to say."""


class Error(Struct):
    """What was wrong."""

    error: str
