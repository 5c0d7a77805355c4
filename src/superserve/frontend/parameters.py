"""Request parameters of the Open Inference Protocol, the same in JSON and in protobuf."""

from collections.abc import Mapping, Sequence
from typing import Final

from superserve.errors import InvalidRequestError
from superserve.serving.inference import InferRequest, InputTensor

Parameter = bool | int | float | str

#: Request parameters of our own. Any other with the prefix is a misspelling, and would be missed silently.
_OWN_PREFIX: Final = "superserve_"
_OWN_PARAMETERS: Final = frozenset({"superserve_min_accuracy"})


def infer_request(
    inputs: Sequence[InputTensor], outputs: Sequence[str] | None, parameters: Mapping[str, Parameter], slo_ms: float
) -> InferRequest:
    """An inference request with what its parameters say.

    Args:
        inputs: its tensors.
        outputs: names of the wanted ones; None for all.
        parameters: as sent.
        slo_ms: a deadline that the client gave in another way; 0 for none.

    Raises:
        InvalidRequestError: naming the parameter that is unknown or of the wrong type.
    """
    for name in parameters:
        if name.startswith(_OWN_PREFIX) and name not in _OWN_PARAMETERS:
            known = ", ".join(sorted(_OWN_PARAMETERS))
            raise InvalidRequestError(f"parameters.{name} is unknown; with this prefix there is: {known}")
    return InferRequest(
        inputs=inputs,
        outputs=outputs,
        timeout_us=_integer(parameters, "timeout"),
        slo_ms=slo_ms,
        min_accuracy=_number(parameters, "superserve_min_accuracy"),
        priority=_integer(parameters, "priority"),
    )


def boolean(parameters: Mapping[str, Parameter], name: str, *, default: bool) -> bool:
    """A parameter that is true or false.

    Raises:
        InvalidRequestError: if it is neither.
    """
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise InvalidRequestError(f"parameters.{name} must be true or false, not {value!r}")
    return value


def slo_of_header(value: bytes | str) -> float:
    """The milliseconds of an ``x-slo-ms`` header.

    Raises:
        InvalidRequestError: if it is no number, or 0.
    """
    try:
        slo_ms = float(value)
    except ValueError:
        slo_ms = 0.0
    if not slo_ms:
        raise InvalidRequestError(f"x-slo-ms must be a positive number of milliseconds, not {value[:32]!r}")
    return slo_ms


def refuse_classification(output: str, parameters: Mapping[str, Parameter]) -> None:
    """Refuse Triton's classification extension, which is not served.

    Raises:
        InvalidRequestError: if an output's parameters ask for it.
    """
    if parameters.get("classification"):
        raise InvalidRequestError(
            f"output {output!r}: parameters.classification is not supported: ask for the tensor itself"
        )


def _integer(parameters: Mapping[str, Parameter], name: str) -> int:
    value = parameters.get(name, 0)
    if type(value) is not int:  # a bool is an int to isinstance
        raise InvalidRequestError(f"parameters.{name} must be an integer, not {value!r}")
    return value


def _number(parameters: Mapping[str, Parameter], name: str) -> float:
    value = parameters.get(name, 0.0)
    if type(value) is not int and type(value) is not float:
        raise InvalidRequestError(f"parameters.{name} must be a number, not {value!r}")
    return value
