"""Any message at all to everything behind gRPC's own library."""

import asyncio
from contextlib import suppress
from typing import Any

import hypothesis.strategies as st
from hypothesis import given

from superserve.clock import ManualClock
from superserve.errors import SuperServeError
from superserve.frontend.grpc.codec import ResponseEncoder, decode_infer
from superserve.model_folder import DTYPES
from superserve.protocol.messages import InferTensorContents, ModelInferRequest, ModelInferResponse
from superserve.serving.dataplane import DataPlane
from superserve.serving.fake_pool import FakePool
from superserve.serving.inference import Answer
from support.fuzzing import spoilt_bytes
from support.serving import make_model, make_router
from support.transports import WIDE

PARAMETERS = ["timeout", "priority", "superserve_min_accuracy", "superserve_subnet", "binary_data_output", "x"]
CHOICES: dict[str, st.SearchStrategy[Any]] = {
    "bool_param": st.booleans(),
    "int64_param": st.integers(-(2**63), 2**63 - 1) | st.sampled_from([0, 1, 50_000]),
    "uint64_param": st.integers(0, 2**64 - 1),
    "double_param": st.floats(),
    "string_param": st.text(max_size=5),
}
CONTENTS: dict[str, st.SearchStrategy[Any]] = {
    "bool_contents": st.booleans(),
    "int_contents": st.integers(-(2**31), 2**31 - 1),
    "int64_contents": st.integers(-(2**63), 2**63 - 1),
    "uint_contents": st.integers(0, 2**32 - 1),
    "uint64_contents": st.integers(0, 2**64 - 1),
    "fp32_contents": st.floats(width=32),
    "fp64_contents": st.floats(),
    "bytes_contents": st.binary(max_size=10),
}


@st.composite
def contents(draw: st.DrawFn) -> Any:
    """Typed contents with one or more fields filled."""
    filled = InferTensorContents()
    for field in draw(st.lists(st.sampled_from(sorted(CONTENTS)), max_size=2)):
        getattr(filled, field).extend(draw(st.lists(CONTENTS[field], max_size=5)))
    return filled


def fill_parameters(draw: st.DrawFn, parameters: Any) -> None:
    for name in draw(st.lists(st.sampled_from(PARAMETERS), max_size=2)):
        choice = draw(st.sampled_from([*CHOICES, ""]))
        parameters[name].Clear()
        if choice:
            setattr(parameters[name], choice, draw(CHOICES[choice]))


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """Requests whose parts are right one by one and rarely fit together."""
    message = ModelInferRequest(id=draw(st.text(max_size=5)))
    message.model_name = draw(st.sampled_from(["wide", "wide", "wide", "other"]))
    message.model_version = draw(st.sampled_from(["", "", "1", "2"]))
    fill_parameters(draw, message.parameters)
    right = draw(st.booleans())
    names = (
        [spec.name for spec in WIDE.inputs] if right else draw(st.lists(st.sampled_from(["in_FP32", "x"]), max_size=3))
    )
    raw = draw(st.booleans())
    for name in names:
        datatype = name.removeprefix("in_") if draw(st.integers(0, 20)) else draw(st.sampled_from([*DTYPES, "NOPE"]))
        tensor = message.inputs.add(name=name, datatype=datatype, shape=draw(shapes))
        if raw and draw(st.integers(0, 20)):
            size = 2 * DTYPES[datatype].itemsize if datatype in DTYPES else 8
            message.raw_input_contents.append(bytes(size) if draw(st.integers(0, 20)) else draw(st.binary(max_size=16)))
        else:
            tensor.contents.CopyFrom(draw(contents()))
    for name in draw(st.lists(st.sampled_from(["out_FP32", "out_BYTES", "x"]), max_size=2)):
        fill_parameters(draw, message.outputs.add(name=name).parameters)
    data: bytes = message.SerializeToString()
    return data


shapes = st.just([1, 2]) | st.lists(st.integers(-1, 3) | st.sampled_from([2**62, -(2**63)]), max_size=3)


class Responder:
    """Encodes the answer, as a call does."""

    def __init__(self, plan: Any) -> None:
        self.plan = plan
        self.told: list[object] = []

    def answered(self, answer: Answer) -> None:
        self.told.append(ModelInferResponse.FromString(self.plan.encode("id", answer)))

    def refused(self, error: SuperServeError) -> None:
        self.told.append(error)


@given(messages() | messages().flatmap(spoilt_bytes), st.floats(allow_nan=True))
def test_a_message_is_served_or_refused_in_the_protocols_words(data: bytes, slo_ms: float) -> None:
    """From the bytes to the bytes: nothing but an answer or an error with a status."""
    clock, pool = ManualClock(), FakePool()
    router = make_router(pool, clock, config=WIDE)
    asyncio.run(router.start())
    plane = DataPlane([make_model(router, config=WIDE)], version="9")
    with suppress(SuperServeError):
        decoded = decode_infer(data, slo_ms)
        model = plane.model(decoded.model, decoded.version)
        checked = model.check(decoded.request)
        responder = Responder(ResponseEncoder(model.config, model.subnet_parameters).plan(decoded))
        model.submit(checked, clock.now_ns(), responder)
        while pool.running:
            pool.finish(0)
        assert len(responder.told) == 1
    assert router.unfinished == 0
