"""onnxruntime and openvino themselves: subnets in them give what eager float32 gives, and nobody hears of it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from superserve.model_folder import ModelFolder
from superserve.serving.choice import choose_engine
from superserve.serving.residency.pack_process import pack
from superserve.serving.residency.pack_task import PackTask
from superserve.supernet.accuracy import TOLERANCE, relative_error
from superserve.supernet.engine import EagerEngine
from superserve.supernet.hub import load_supernet, save_supernet
from superserve.supernet.packed.build import build_packed
from superserve.supernet.packed_engine import Loader, PackedEngine
from superserve.supernet.packed_store import find_pack
from superserve.supernet.runtimes.build import RuntimeBuilder
from superserve.supernet.runtimes.installed import DTYPES
from superserve.supernet.runtimes.sessions import FILES
from support.supernets import TINY, pixels, small_supernet

# torch's tracers warn about parts of torch.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

SUBNET = 1

#: Opens a subnet in both, in a process whose every file and connection is known.
QUIET = """
import json, sys, threading
heard = []
def hear(event, arguments):
    if event in {"socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.posix_spawn", "os.fork"}:
        heard.append(event)
sys.addaudithook(hear)
from pathlib import Path
import numpy as np
from superserve.supernet.runtimes.sessions import open_session
for runtime in ("onnxruntime", "openvino"):
    open_session(runtime, "float32", Path(sys.argv[1]))([np.zeros((2, 9, 9, 2), np.uint8)])
print(json.dumps([heard, "openvino_telemetry" in sys.modules]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return save_supernet(small_supernet(2, TINY), tmp_path_factory.mktemp("runtimes") / "tiny")


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def dtype(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def built(folder: ModelFolder, dtype: str) -> RuntimeBuilder:
    path = build_packed(folder, SUBNET, dtype, folder.path.parent / dtype).path
    return RuntimeBuilder(folder, SUBNET, Loader.of(folder, dtype), path)


def test_each_runtime_gives_what_eager_float32_gives_for_every_number_of_rows(
    folder: ModelFolder, built: RuntimeBuilder, dtype: str
) -> None:
    runtimes = [name for name, dtypes in DTYPES.items() if dtype in dtypes]
    engines, refused = built.build(runtimes)
    assert (list(engines), refused) == (runtimes, {})
    eager = EagerEngine(load_supernet(folder))
    for engine in engines.values():
        for rows in (1, 2, 16, 5, 33, 1):
            images = pixels(rows, seed=rows)
            expected = [output.copy() for output in eager.run(SUBNET, [images])]
            kept = images.copy()
            assert relative_error(engine.run(SUBNET, [images]), expected) <= TOLERANCE[dtype]
            assert np.array_equal(images, kept)


def test_what_it_takes_is_measured_and_no_less_than_its_weights(
    folder: ModelFolder, built: RuntimeBuilder, dtype: str
) -> None:
    runtimes = [name for name, dtypes in DTYPES.items() if dtype in dtypes]
    for name, engine in built.build(runtimes).engines.items():
        weights = sum((folder.path.parent / dtype / file).stat().st_size for file in FILES[name])
        assert weights <= built.check(engine, (1, 2)) < 200 << 20


def test_texts_of_every_length(tmp_path: Path) -> None:
    """Word pieces are cut before the session, and padded to one of several lengths."""
    folder = ModelFolder.resolve("intents")
    path = build_packed(folder, 0, "float32", tmp_path / "packed").path
    engines, refused = RuntimeBuilder(folder, 0, Loader.of(folder, "float32"), path).build([*DTYPES])
    assert (list(engines), refused) == ([*DTYPES], {})
    eager = EagerEngine(load_supernet(folder))
    (spec,) = folder.config.inputs
    for text in (b"hi", b"what is the weather like " * 3, b"book me a table for two " * 40):
        rows = spec.packed(np.full((2, *spec.row_shape), text[: spec.max_bytes]))
        expected = [output.copy() for output in eager.run(0, [rows])]
        for engine in engines.values():
            assert relative_error(engine.run(0, [rows]), expected) <= TOLERANCE["float32"]


def test_a_pack_runs_each_size_somewhere_and_all_of_them_right(
    folder: ModelFolder, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of them was faster here: from the process that packs to the engine of a worker."""
    monkeypatch.setenv("SUPERSERVE_CACHE", str(tmp_path))
    task = PackTask.of(folder, choose_engine(folder, engine="packed", dtype=dtype))
    record = pack(msgspec.structs.replace(task, subnet=SUBNET))
    assert {*record.tried} == {name for name, dtypes in DTYPES.items() if dtype in dtypes}
    assert {*record.left} == {*record.tried} - {*record.runtimes}
    assert find_pack(folder, dtype, SUBNET, "eager") is not None
    eager = EagerEngine(load_supernet(folder))
    engine = PackedEngine.load(folder, EagerEngine.load(folder, dtype))
    assert engine.reside([SUBNET]) == (SUBNET,)
    for rows in range(1, 1 + record.batches[-1]):
        images = pixels(rows, seed=rows)
        expected = [output.copy() for output in eager.run(SUBNET, [images])]
        assert relative_error(engine.run(SUBNET, [images]), expected) <= TOLERANCE[dtype]


def test_nobody_hears_of_it(folder: ModelFolder, tmp_path: Path) -> None:
    """Both report to web services by default, and write an identity into the user's folders."""
    path = build_packed(folder, SUBNET, "float32", tmp_path / "packed").path
    RuntimeBuilder(folder, SUBNET, Loader.of(folder, "float32"), path).build([*DTYPES])
    home = tmp_path / "home"
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if name not in {"CI", "ORT_DISABLE_TELEMETRY"}}
    done = subprocess.run(
        [sys.executable, "-c", QUIET, str(path)],
        check=True,
        capture_output=True,
        text=True,
        env={**environment, "HOME": str(home), "XDG_CACHE_HOME": str(home), "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert json.loads(done.stdout) == [[], False]
    assert [*home.rglob("*")] == []
