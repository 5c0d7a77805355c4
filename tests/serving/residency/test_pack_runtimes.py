"""A subnet packed with a static runtime beside its program: the runtime is played by the extracted subnet in torch."""

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import hypothesis.strategies as st
import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from superserve.engine import Engine
from superserve.errors import ModelFolderError
from superserve.model_folder import ModelFolder
from superserve.serving.choice import choose_engine
from superserve.serving.residency import pack_process
from superserve.serving.residency.pack_task import PackTask
from superserve.supernet import packed_store
from superserve.supernet.accuracy import TOLERANCE, relative_error
from superserve.supernet.engine import EagerEngine
from superserve.supernet.hub import load_supernet, save_supernet
from superserve.supernet.packed.build import build_packed
from superserve.supernet.packed_engine import PackedEngine
from superserve.supernet.packed_store import find_pack, pack_path
from superserve.supernet.runtimes import build, installed, module
from superserve.supernet.runtimes.contest import PROGRAM
from superserve.supernet.runtimes.export import Exportable, static_subnet
from superserve.supernet.runtimes.sessions import Arrays, Session
from superserve.supernet.single_thread import single_thread
from support.supernets import TINY, pixels, small_supernet

# torch's tracer warns about parts of torch.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

SUBNET = 1
#: What each takes, in nanoseconds, of one row and of more.
TIMES = {"eager": (100, 100), PROGRAM: (90, 40), "openvino": (50, 95), "onnxruntime": (70, 98)}


class Played:
    """Runtimes that are no runtimes: what they open computes in torch, shifted by what a test wants to be wrong."""

    def __init__(self, folder: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.versions = {"onnx": "1", "onnxruntime": "2", "openvino": "3"}
        self.shift = dict.fromkeys(("onnxruntime", "openvino"), 0.0)
        self.opened: list[str] = []
        self._subnet = static_subnet(load_supernet(folder), SUBNET)
        monkeypatch.setattr(installed, "version", self.versions.get)
        monkeypatch.setattr(packed_store, "version", self.versions.get)
        monkeypatch.setattr(build, "export_onnx", self._export)
        monkeypatch.setattr(build, "write_openvino", self._convert)
        monkeypatch.setattr(build, "open_session", self.open)
        monkeypatch.setattr(module, "open_session", self.open)
        monkeypatch.setattr(build, "resident_bytes", lambda *_: 1000)
        monkeypatch.setattr(pack_process, "_taken_ns", self._taken_ns)

    def open(self, runtime: str, dtype: str, path: Path) -> Session:  # noqa: ARG002
        self.opened.append(runtime)

        def run(inputs: Arrays) -> list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
            return [self._subnet.run(list(inputs)) + np.float32(self.shift[runtime])]

        return run

    def pack(self, runtimes: tuple[str, ...] | None = None) -> packed_store.PackRecord:
        task = PackTask.of(self.folder, choose_engine(self.folder, engine="packed", dtype="float32"))
        return pack_process.pack(msgspec.structs.replace(task, subnet=SUBNET, runtimes=runtimes))

    def _export(self, exportable: Exportable, path: Path) -> None:
        assert torch.equal(exportable.subnet(*exportable.example), self._subnet(*exportable.example))
        path.write_bytes(b"onnx")

    def _convert(self, exported: Path, path: Path) -> None:
        (path / "subnet.xml").write_bytes(exported.read_bytes())
        (path / "subnet.bin").write_bytes(b"weights")

    def _taken_ns(self, engine: Engine, _: int, inputs: Arrays) -> int:
        return TIMES[engine.name][len(inputs[0]) > 1]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and beside it the program of its largest subnet."""
    path = tmp_path_factory.mktemp("runtimes")
    with single_thread():
        folder = save_supernet(small_supernet(2, TINY), path / "tiny")
        return build_packed(folder, SUBNET, "float32", path / "program").path.parent


@pytest.fixture
def played(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Played]:
    def build_packed(_: ModelFolder, __: int, ___: str, path: Path) -> None:
        shutil.copytree(packed / "program", path)

    monkeypatch.setattr("superserve.supernet.packed.build.build_packed", build_packed)
    monkeypatch.setenv("SUPERSERVE_CACHE", str(tmp_path / "cache"))
    with single_thread():
        yield Played(ModelFolder(packed / "tiny"), monkeypatch)


def test_each_size_runs_on_the_fastest_and_what_is_not_worth_it_goes(
    played: Played, caplog: pytest.LogCaptureFixture
) -> None:
    """From packing to the engine: kept files, bytes, outputs of all sizes; and what a changed installation does."""
    record = played.pack()
    assert record.runs == ("openvino", *[PROGRAM] * (len(record.batches) - 1))
    assert record.ratios[:2] == (0.5, 0.4)
    assert (record.runtimes, record.tried) == ({"openvino": "3"}, {"onnxruntime": "2", "openvino": "3"})
    assert set(record.left) == {"onnxruntime"}
    path = pack_path(played.folder, "float32", SUBNET)
    assert {each.name for each in path.iterdir()} == {
        "pack.json", "program.json", "weights.bin", "subnet.xml", "subnet.bin"
    }  # fmt: skip
    assert record.nbytes == (path / "weights.bin").stat().st_size + len(b"weights")
    assert record.nbytes_on(3) == record.nbytes + 3 * 1000

    kept = find_pack(played.folder, "float32", SUBNET, "eager")
    assert kept is not None
    assert kept.record == record

    eager = EagerEngine(load_supernet(played.folder))
    engine = PackedEngine.load(played.folder, eager)
    assert engine.reside([SUBNET]) == (SUBNET,)

    @settings(deadline=None, max_examples=20)
    @given(rows=st.integers(1, 2 * record.batches[-1]), seed=st.integers(0, 9))
    def equals_eager(rows: int, seed: int) -> None:
        images = pixels(rows, seed=seed)
        expected = [output.copy() for output in eager.run(SUBNET, [images])]
        assert relative_error(engine.run(SUBNET, [images]), expected) <= TOLERANCE["float32"]

    equals_eager()

    # Wanted with what it was tried on: it is kept. Without: packed again, beside nothing else.
    assert played.pack(runtimes=("openvino", "onnxruntime")) == record
    with caplog.at_level(logging.WARNING):
        played.versions["openvino"] = "4"
        assert find_pack(played.folder, "float32", SUBNET, "eager") is None
        del played.versions["openvino"]
        assert find_pack(played.folder, "float32", SUBNET, "eager") is None
    assert "packed with openvino 3, not 4: pack it again" in caplog.text
    assert "packed with openvino 3, which is not installed: pack it again" in caplog.text
    assert engine.reside([]) == ()
    assert engine.reside([SUBNET]) == ()  # nor does a worker open it

    played.versions["openvino"] = "3"
    (path / "subnet.bin").write_bytes(b"another")
    assert find_pack(played.folder, "float32", SUBNET, "eager") is None
    (path / "subnet.bin").chmod(0o666)
    assert find_pack(played.folder, "float32", SUBNET, "eager") is None
    assert "others may write it" in caplog.text


def test_a_runtime_that_computes_something_else_or_cannot_be_opened_is_dropped(
    played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    played.shift["openvino"] = 1.0
    opened = played.open

    def refuse(runtime: str, dtype: str, path: Path) -> Session:
        if runtime == "onnxruntime":
            raise ModelFolderError("onnxruntime cannot be imported: no libstdc++")
        return opened(runtime, dtype, path)

    monkeypatch.setattr(module, "open_session", refuse)
    record = played.pack()
    assert record.modules == (PROGRAM,)
    assert "differs from eager float32" in record.left["openvino"]
    assert record.left["onnxruntime"] == "onnxruntime cannot be imported: no libstdc++"
    assert not [*pack_path(played.folder, "float32", SUBNET).glob("subnet.*")]
    assert played.pack(runtimes=()) == record  # what was tried and is not used need not be tried again


def test_a_runtime_that_loses_accuracy_gives_way_to_the_next_one(
    played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check_points(engine: Engine, *_: object, **__: object) -> None:
        if engine.name == "openvino":
            raise ModelFolderError("loses 0.30 points")

    monkeypatch.setattr(build, "check_points", check_points)
    record = played.pack()
    assert (record.runtimes, record.left) == ({"onnxruntime": "2"}, {"openvino": "loses 0.30 points"})
    assert record.nbytes == (pack_path(played.folder, "float32", SUBNET) / "weights.bin").stat().st_size


def test_where_all_batches_are_to_run_packed_each_does_so_on_the_fastest_of_what_there_is(
    played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that what is counted on labelled examples is what a resident subnet answers, not what is behind it."""
    monkeypatch.setitem(TIMES, "eager", (45, 200))
    record = played.pack()
    assert [record.module(rows) for rows in (1, 2)] == [None, PROGRAM]
    eager = EagerEngine(load_supernet(played.folder))
    monkeypatch.setattr(eager, "run", None)
    engine = PackedEngine.load(played.folder, eager, always=True)
    assert engine.reside([SUBNET]) == (SUBNET,)
    assert [len(engine.run(SUBNET, [pixels(rows)])[0]) for rows in (1, 2, 16)] == [1, 2, 16]


def test_where_nothing_is_installed_nothing_is_exported(played: Played) -> None:
    played.versions.clear()
    record = played.pack()
    assert (record.modules, record.tried, record.left, played.opened) == ((PROGRAM,), {}, {}, [])
    assert record.nbytes_each == 0
