"""Sessions with fake runtimes: one thread, no telemetry, and clear words where something is broken."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from superserve.errors import ModelFolderError
from superserve.supernet.runtimes import sessions

ROWS = np.arange(6, dtype=np.float32).reshape(2, 3)


class FakeOnnxruntime(ModuleType):
    """As much of onnxruntime as a session takes, doubling what comes in."""

    def __init__(self) -> None:
        super().__init__("onnxruntime")
        self.SessionOptions = SimpleNamespace
        self.opened: list[tuple[str, Any, Sequence[str]]] = []

    def InferenceSession(self, file: str, options: Any, providers: Sequence[str]) -> Any:  # noqa: N802 (its name)
        self.opened.append((file, options, providers))
        return SimpleNamespace(
            get_inputs=lambda: [SimpleNamespace(name="image")], run=lambda _, fed: [2 * fed["image"]]
        )


class FakeCore:
    """As much of openvino as a session takes, tripling what comes in."""

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {}

    def read_model(self, file: str) -> str:
        return file

    def compile_model(self, model: str, device: str, settings: dict[str, Any]) -> Any:  # noqa: ARG002
        self.settings = settings
        return SimpleNamespace(create_infer_request=lambda: SimpleNamespace(infer=self.infer))

    def infer(
        self, inputs: Sequence[np.ndarray[Any, Any]], *, share_inputs: bool, share_outputs: bool
    ) -> dict[str, np.ndarray[Any, Any]]:
        assert share_inputs
        assert share_outputs
        return {"logits": 3 * inputs[0]}


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    sessions._openvino_core.cache_clear()


def test_onnxruntime_runs_on_one_thread_and_keeps_no_arena(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = FakeOnnxruntime()
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    session = sessions.open_session("onnxruntime", "float32", tmp_path)
    assert session([ROWS])[0].tolist() == (2 * ROWS).tolist()
    ((file, options, providers),) = fake.opened
    assert (file, providers) == (str(tmp_path / "subnet.onnx"), ["CPUExecutionProvider"])
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)
    assert (options.enable_cpu_mem_arena, options.use_deterministic_compute) == (False, True)
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"


@pytest.mark.parametrize(("dtype", "hint"), [("float32", "f32"), ("bfloat16", "bf16")])
def test_openvino_runs_on_one_thread_in_the_dtype_and_pins_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dtype: str, hint: str
) -> None:
    core, fake = FakeCore(), ModuleType("openvino")
    monkeypatch.setattr(fake, "Core", lambda: core, raising=False)
    monkeypatch.setitem(sys.modules, "openvino", fake)
    session = sessions.open_session("openvino", dtype, tmp_path)
    assert session([ROWS])[0].tolist() == (3 * ROWS).tolist()
    assert (core.settings["INFERENCE_NUM_THREADS"], core.settings["NUM_STREAMS"]) == (1, 1)
    assert (core.settings["INFERENCE_PRECISION_HINT"], core.settings["ENABLE_CPU_PINNING"]) == (hint, False)


def test_a_runtime_finds_its_telemetry_missing_while_it_is_imported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "openvino.py").write_text(
        "try:\n    import openvino_telemetry\nexcept ImportError:\n    silent = True\nelse:\n    silent = False\n"
    )
    (tmp_path / "openvino_telemetry.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "openvino", raising=False)
    assert sessions.import_runtime("openvino").silent
    import openvino_telemetry  # type: ignore[import-not-found]  # noqa: F401, PLC0415 (it is there for others)

    for name in ("openvino", "openvino_telemetry"):
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.parametrize("code", ["import nothing_of_this_name", "raise OSError('libtbb.so.12: cannot open')"])
def test_a_broken_installation_is_told_with_what_helps(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str
) -> None:
    (tmp_path / "onnxruntime.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    with pytest.raises(ModelFolderError, match=r"onnxruntime cannot be imported: .*--runtimes none"):
        sessions.open_session("onnxruntime", "float32", tmp_path)


def test_a_file_that_a_runtime_refuses_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = FakeOnnxruntime()

    def refuse(*_: Any, **__: Any) -> Any:
        raise RuntimeError("INVALID_PROTOBUF")

    monkeypatch.setattr(fake, "InferenceSession", refuse)
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    with pytest.raises(ModelFolderError, match=r"subnet\.onnx: onnxruntime cannot open it: .*INVALID_PROTOBUF"):
        sessions.open_session("onnxruntime", "float32", tmp_path)
