"""The packed engine: what is resident runs packed, everything else on the engine behind it."""

from collections.abc import Sequence
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from superserve.errors import ConfigError, ModelFolderError
from superserve.model_folder import TensorSpec
from superserve.supernet.packed_engine import Mapped, PackedEngine
from superserve.supernet.packed_store import PackRecord
from superserve.supernet.runtimes.contest import PROGRAM

ROWS = np.ones((2, 3), np.float32)

#: By what runs a subnet.
ANSWERS = {PROGRAM: 0, "openvino": 10}


class Behind:
    """Answers with zeros, and remembers what it was to actuate."""

    name, dtype, subnet_ids = "eager", "float32", ("a", "b", "c")

    def __init__(self) -> None:
        self.actuated: list[int] = []

    def actuate(self, subnet: int) -> None:
        self.actuated.append(subnet)

    def run(self, subnet: int, inputs: Sequence[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:  # noqa: ARG002
        return [np.zeros_like(inputs[0])]


class Module:
    """Answers with the number of its subnet, plus what tells it from others of the same subnet."""

    def __init__(self, subnet: int, log: list[str], answer: int = 0) -> None:
        self._subnet, self._log, self._answer = subnet, log, subnet + answer
        log.append(f"map {subnet}")

    def run(self, inputs: Sequence[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        self._log.append(f"run {self._subnet} on {len(inputs[0])}")
        if self._subnet == 2:
            raise RuntimeError("an operator that this processor lacks")
        return [np.full_like(inputs[0], self._answer)]

    def close(self) -> None:
        self._log.append(f"close {self._subnet}")


class Bench:
    """An engine over modules that say what becomes of them."""

    def __init__(self, *missing: int, record: PackRecord | None = None) -> None:
        self.log: list[str] = []
        self.behind = Behind()

        def load(subnet: int) -> Mapped:
            if subnet in missing:
                raise ModelFolderError("gone")
            names = (PROGRAM,) if record is None else record.modules
            return Mapped({name: Module(subnet, self.log, ANSWERS[name]) for name in names}, record)

        self.engine = PackedEngine(self.behind, load, [TensorSpec("x", "FP32", (-1, 3))])


def test_runs_resident_subnets_packed_and_others_behind() -> None:
    bench = Bench()
    engine = bench.engine
    assert (engine.name, engine.dtype, engine.subnet_ids) == ("packed", "float32", ("a", "b", "c"))
    assert engine.run(1, [ROWS])[0].max() == 0
    assert engine.reside([1]) == (1,)
    assert engine.run(1, [ROWS])[0].tolist() == (1 * ROWS).tolist()
    assert engine.run(0, [ROWS])[0].max() == 0
    engine.actuate(0)
    engine.actuate(1)
    assert bench.behind.actuated == [0]  # of a packed one nothing is to be set


def test_packed_subnets_may_be_in_another_dtype_than_what_is_behind_them() -> None:
    assert PackedEngine(Behind(), lambda _: Mapped({}), [TensorSpec("x", "FP32", (-1, 3))], "int8").dtype == "int8"


def test_what_is_resident_changes_and_each_new_one_is_tried_before_a_request_runs_it() -> None:
    bench = Bench()
    assert bench.engine.reside([0, 1]) == (0, 1)
    assert bench.engine.reside([1]) == (1,)
    assert bench.engine.reside([]) == ()
    assert bench.log == ["map 0", "run 0 on 1", "map 1", "run 1 on 1", "close 0", "close 1"]
    assert bench.engine.run(1, [ROWS])[0].max() == 0


def test_what_cannot_be_mapped_or_run_stays_behind(capsys: pytest.CaptureFixture[str]) -> None:
    bench = Bench(1)
    assert bench.engine.reside([0, 1, 2]) == (0,)
    assert bench.engine.run(2, [ROWS])[0].max() == 0
    said = capsys.readouterr().err
    assert "subnet b cannot be made resident: gone" in said
    assert "subnet c cannot be made resident: an operator" in said


@pytest.mark.parametrize("error", [OSError(12, "no memory"), MemoryError("no memory"), ConfigError("no memory")])
def test_whatever_keeps_a_subnet_from_being_mapped_the_worker_lives(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(subnet: int) -> Mapped:
        raise error

    assert PackedEngine(Behind(), load, []).reside([1]) == ()
    assert "subnet b cannot be made resident: " in capsys.readouterr().err


def test_each_batch_of_a_resident_subnet_runs_where_it_was_faster() -> None:
    """Sizes that were not timed go by the next larger one that was, larger ones than all by the largest."""
    record = PackRecord(
        subnet="b", nbytes=1, seconds=0.5, behind="eager", batches=(1, 4, 8), ratios=(1.2, 1.0, 0.7), sha256={}
    )
    bench = Bench(record=record)
    bench.engine.reside([1])
    outputs = {rows: bench.engine.run(1, [np.ones((rows, 3), np.float32)])[0].max() for rows in (1, 2, 4, 5, 8, 16)}
    assert outputs == {1: 0, 2: 0, 4: 0, 5: 1, 8: 1, 16: 1}
    assert [record.ratio(rows) for rows in outputs] == [1.2, 1.0, 1.0, 0.7, 0.7, 0.7]


@pytest.mark.parametrize(
    ("ratios", "worth"), [((1.3, 0.9, 0.85), True), ((1.3, 1.0, 0.97), False), ((0.9, 0.9, 0.9), True)]
)
def test_a_subnet_is_worth_memory_by_what_it_saves_where_it_runs(ratios: tuple[float, ...], worth: bool) -> None:
    record = PackRecord(subnet="b", nbytes=1, seconds=0.5, behind="eager", batches=(1, 4, 8), ratios=ratios, sha256={})
    assert record.is_faster == worth


def test_each_batch_runs_in_the_program_the_runtime_or_behind_whichever_was_fastest() -> None:
    record = PackRecord(
        subnet="b",
        nbytes=1,
        nbytes_each=7,
        seconds=0.5,
        behind="eager",
        batches=(1, 4, 8),
        ratios=(0.5, 1.1, 0.7),
        runs=("openvino", "openvino", PROGRAM),
        runtimes={"openvino": "1"},
        sha256={},
    )
    assert record.modules == ("openvino", PROGRAM)
    bench = Bench(record=record)
    assert bench.engine.reside([1]) == (1,)
    assert bench.log == ["map 1", "map 1", "run 1 on 1", "run 1 on 1"]  # both are tried before a request runs them
    outputs = {rows: bench.engine.run(1, [np.ones((rows, 3), np.float32)])[0].max() for rows in (1, 2, 4, 8, 16)}
    assert outputs == {1: 11, 2: 0, 4: 0, 8: 1, 16: 1}
    bench.engine.reside([])
    assert bench.log[-2:] == ["close 1", "close 1"]


def test_a_runtime_takes_memory_in_every_worker_a_program_once() -> None:
    record = PackRecord(
        subnet="b", nbytes=5, nbytes_each=7, seconds=0.5, behind="eager", batches=(1,), ratios=(0.5,), sha256={}
    )
    assert [record.nbytes_on(workers) for workers in (1, 3)] == [12, 26]


VERSIONS = st.dictionaries(st.sampled_from(["onnxruntime", "openvino"]), st.sampled_from(["1", "2"]))


@given(used=VERSIONS, others=VERSIONS, wanted=VERSIONS)
def test_a_pack_fits_what_it_was_tried_on_and_runs_on_nothing_else(
    used: dict[str, str], others: dict[str, str], wanted: dict[str, str]
) -> None:
    tried = {**others, **used}
    record = PackRecord(
        subnet="b",
        nbytes=5,
        seconds=0.5,
        behind="eager",
        batches=(1,),
        ratios=(0.5,),
        runtimes=used,
        tried=tried,
        sha256={},
    )
    assert record.fits(tried)
    if record.fits(wanted):
        assert all(tried.get(name) == version for name, version in wanted.items())
        assert all(wanted.get(name) == version for name, version in used.items())
    else:
        assert any(tried.get(name) != version for name, version in wanted.items()) or any(
            wanted.get(name) != version for name, version in used.items()
        )
