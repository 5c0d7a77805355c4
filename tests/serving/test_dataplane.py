import struct
from typing import Any

import msgspec
import numpy as np
import pytest

from superserve.clock import NS_PER_MS, ManualClock
from superserve.errors import InvalidRequestError, UnknownModelError
from superserve.model_folder import TensorSpec
from superserve.serving.dataplane import Checked, DataPlane, ServedModel
from superserve.serving.fake_pool import FakePool
from superserve.serving.inference import InferRequest, InputTensor
from support.serving import MODEL, Recorder, make_model, make_router, rename


def image(rows: int = 1, **changes: Any) -> InputTensor:
    """The first input of `MODEL`."""
    return msgspec.structs.replace(InputTensor("image", "UINT8", [rows, 2, 2], bytes(range(4 * rows))), **changes)


def scale(rows: int = 1, **changes: Any) -> InputTensor:
    """The second one."""
    return msgspec.structs.replace(InputTensor("scale", "FP32", [rows], struct.pack("<f", 2) * rows), **changes)


@pytest.fixture
def pool() -> FakePool:
    return FakePool()


@pytest.fixture
def model(pool: FakePool) -> ServedModel:
    return make_model(make_router(pool, ManualClock()))


def check(model: ServedModel, *tensors: InputTensor, **options: Any) -> Checked:
    return model.check(InferRequest(inputs=tensors or (image(), scale()), **options))


def test_inputs_are_put_in_the_models_order(model: ServedModel) -> None:
    """However a client sends them."""
    tensors = image(3), scale(3)
    for given in (tensors, tensors[::-1]):
        checked = check(model, *given)
        assert checked.rows == 3
        assert list(checked.inputs) == [tensor.data for tensor in tensors]


@pytest.mark.parametrize(
    ("tensors", "pattern"),
    [
        ((image(),), r"missing: \['scale'\]"),
        ((image(), scale(name="scales")), r"unknown: \['scales'\], missing: \['scale'\]"),
        ((image(), scale(), scale(name="more")), r"unknown: \['more'\]"),
        ((image(), image()), "once"),
        ((image(), scale(), scale()), "once"),
        ((image(datatype="INT8"), scale()), "'image': datatype must be UINT8, not 'INT8'"),
        ((image(shape=[1, 4]), scale()), r"'image': shape must be \[-1, 2, 2\].*not \[1, 4\]"),
        ((image(shape=[]), scale()), "'image': shape"),
        ((image(), scale(shape=[1, 1])), r"'scale': shape must be \[-1\]"),
        ((image(2), scale(1)), "'scale': 1 rows, but other inputs have 2"),
        ((image(5), scale(5)), "'image': a request may have 1 to 4 rows, not 5"),
        ((image(0), scale(0)), "'image': a request may have 1 to 4 rows, not 0"),
        ((image(shape=[-1, 2, 2]), scale()), "rows"),
        ((image(data=bytes(3)), scale()), "'image': 3 bytes of data, but 1 rows of 4 bytes"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_by_name(
    model: ServedModel, tensors: tuple[InputTensor, ...], pattern: str
) -> None:
    """The message says what fits; the limit of 4 rows is the profile's, below the model's own 16."""
    with pytest.raises(InvalidRequestError, match=pattern):
        check(model, *tensors)


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        ({"outputs": ["pixels", "logits"]}, r"'logits' is unknown.*'factor', 'pixels'"),
        ({"outputs": ["pixels", "pixels"]}, "once"),
        ({"min_accuracy": 101}, "superserve_min_accuracy"),
        ({"min_accuracy": -1}, "superserve_min_accuracy"),
        ({"min_accuracy": float("nan")}, "superserve_min_accuracy"),
        ({"priority": -1}, "priority"),
        ({"timeout_us": -1}, "timeout"),
        ({"timeout_us": 2**63}, "timeout"),
        ({"slo_ms": -1.0}, "x-slo-ms"),
        ({"slo_ms": float("inf")}, "x-slo-ms"),
        ({"slo_ms": float("nan")}, "x-slo-ms"),
        ({"slo_ms": 1e12}, "x-slo-ms"),
    ],
)
def test_other_fields_out_of_range_are_refused(model: ServedModel, options: dict[str, Any], pattern: str) -> None:
    """Each with the name under which the client sent it."""
    with pytest.raises(InvalidRequestError, match=pattern):
        check(model, **options)


def test_the_first_deadline_given_counts(model: ServedModel) -> None:
    """``timeout`` before ``x-slo-ms`` before the model's own."""
    assert check(model, timeout_us=1500, slo_ms=20.0).timeout_ns == 1_500_000
    assert check(model, slo_ms=2.5).timeout_ns == 2_500_000
    assert check(model).timeout_ns == 50 * NS_PER_MS


async def test_what_is_submitted_reaches_the_workers_and_comes_back(pool: FakePool, model: ServedModel) -> None:
    """From a checked request to its outputs, with the deadline counted from the arrival."""
    await model.router.start()
    recorder = Recorder()
    pending = model.submit(check(model, image(2), scale(2), priority=3, min_accuracy=70.5), 0, recorder)
    assert (pending.deadline_ns, pending.priority, pending.min_accuracy, pending.rows) == (50 * NS_PER_MS, 3, 70.5, 2)
    pool.finish(0)
    assert recorder.outputs == [[bytes(range(8)), struct.pack("<ff", 2, 2)]]


async def test_models_are_found_by_name_and_version(model: ServedModel) -> None:
    """An unknown name or version names those that there are."""
    plane = DataPlane([model], version="9")
    assert plane.model("tiny") is plane.model("tiny", "1") is model
    with pytest.raises(UnknownModelError, match=r"'huge'.*tiny"):
        plane.model("huge")
    with pytest.raises(UnknownModelError, match="version '1', not '2'"):
        plane.model("tiny", "2")


async def test_ready_means_that_every_model_is(model: ServedModel) -> None:
    """Live from the first moment, ready with the last model's workers."""
    other = make_model(make_router(FakePool(), ManualClock()), config=rename(MODEL, "other"))
    plane = DataPlane([model, other], version="9")
    ready = [plane.ready]
    for served in (model, other):
        await served.router.start()
        ready.append(plane.ready)
    assert plane.live
    assert ready == [False, False, True]


def test_metadata_says_what_is_served(model: ServedModel) -> None:
    """Tensors as in the folder; emulated workers are no secret."""
    assert DataPlane([model], version="9").metadata.version == "9"
    metadata = model.metadata
    assert [tensor.name for tensor in metadata.inputs] == ["image", "scale"]
    assert metadata.outputs[0].shape == (-1, 2, 2)
    assert metadata.platform == "superserve_torch"
    assert make_model(model.router, emulated=True).metadata.platform == "superserve_emulated"


def tokens(*rows: list[int]) -> InputTensor:
    content = np.array(rows, "<i8")
    return InputTensor("input_ids", "INT64", list(content.shape), content.tobytes())


@pytest.fixture
def texts(pool: FakePool) -> ServedModel:
    """A model that looks its input up in a table of ten."""
    inputs = (TensorSpec("input_ids", "INT64", (-1, 3), range=(0, 9)),)
    return make_model(make_router(pool, ManualClock()), config=msgspec.structs.replace(MODEL, inputs=inputs))


def test_values_up_to_the_limits_are_taken(texts: ServedModel) -> None:
    assert check(texts, tokens([0, 9, 5], [9, 9, 0])).rows == 2


@pytest.mark.parametrize(
    ("rows", "row", "value"),
    [
        (([1, 2, 10],), 0, 10),
        (([1, 2, 3], [0, 0, -1]), 1, -1),
        (([1, 2, 3], [4, 5, 6], [2**62, -(2**62), 0]), 2, 2**62),
    ],
)
def test_values_that_the_model_cannot_take_are_refused_by_row(
    texts: ServedModel, rows: tuple[list[int], ...], row: int, value: int
) -> None:
    """A worker that looked them up would fail with the whole batch; this one never hears of them."""
    with pytest.raises(InvalidRequestError, match=f"'input_ids': row {row} holds {value}, outside of 0 to 9"):
        check(texts, tokens(*rows))


def test_a_model_without_limits_takes_any_value(model: ServedModel) -> None:
    assert check(model, image(data=b"\xff" * 4), scale(data=struct.pack("<f", float("nan")))).rows == 1


async def test_models_come_and_go() -> None:
    """Whoever watches readiness is told; a model that could be loaded is not ready, one that could not is unknown."""
    first = make_model(make_router(FakePool(), ManualClock()))
    second = make_model(make_router(FakePool(), ManualClock()), config=rename(MODEL, "second"))
    plane = DataPlane([first], version="9")
    told: list[bool] = []
    plane.watchers.add(lambda: told.append(plane.ready))
    await first.router.start()
    plane.add(second)
    changes = [told[-1]]
    await second.router.start()
    changes.append(told[-1])
    assert changes == [False, True], "at first one of them would not admit a request"
    assert plane.model_ready("second")
    plane.remove(second)
    with pytest.raises(UnknownModelError):
        plane.model_ready("second")
    plane.can_load = lambda name: name == "second"
    assert not plane.model_ready("second")
    before = len(told)
    await second.router.drain(0)
    assert len(told) == before, "what is not served does not matter"
