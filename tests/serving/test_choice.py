"""Which engine is chosen, and what wishes are refused."""

from pathlib import Path

import msgspec
import pytest

from superserve.engine import EngineChoice
from superserve.errors import ConfigError
from superserve.model_folder import ModelFolder
from superserve.serving import choice as choice_module
from superserve.serving.choice import choose_engine
from superserve.serving.points_ahead import runs_of
from superserve.supernet import compile as compile_module
from superserve.supernet.builds import this_machine
from superserve.supernet.packed_store import pack_path
from superserve.supernet.right_answers import REFERENCE, RightAnswers, Runs, keep_answers
from support.builds import write_build


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelFolder:
    """The bundled digits, with an empty cache, on a processor with bfloat16 and int8."""
    monkeypatch.setenv("SUPERSERVE_CACHE", str(tmp_path / "cache"))
    for module in (choice_module, compile_module):
        monkeypatch.setattr(module, "has_bfloat16", lambda: True)
    monkeypatch.setattr(compile_module, "has_int8", lambda: True)
    return ModelFolder.resolve("digits")


def without_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (choice_module, compile_module):
        monkeypatch.setattr(module, "has_bfloat16", lambda: False)


def test_without_a_build_eager_runs(folder: ModelFolder) -> None:
    assert choose_engine(folder) == EngineChoice("cpu", "eager", "float32")
    assert choose_engine(folder, dtype="bfloat16") == EngineChoice("cpu", "eager", "bfloat16")


def test_a_build_for_this_machine_is_preferred_and_can_be_overridden(folder: ModelFolder) -> None:
    write_build(folder)
    assert choose_engine(folder) == EngineChoice("cpu", "compiled", "float32")
    assert choose_engine(folder, engine="compiled") == EngineChoice("cpu", "compiled", "float32")
    assert choose_engine(folder, engine="eager") == EngineChoice("cpu", "eager", "float32")
    assert choose_engine(folder, dtype="bfloat16") == EngineChoice("cpu", "eager", "bfloat16")


@pytest.mark.parametrize(("bfloat16_us", "dtype"), [(50.0, "bfloat16"), (100.0, "float32"), (150.0, "float32")])
def test_of_two_dtypes_the_faster_one_runs(folder: ModelFolder, bfloat16_us: float, dtype: str) -> None:
    write_build(folder, full_batch_us=100.0)
    write_build(folder, "bfloat16", full_batch_us=bfloat16_us)
    assert choose_engine(folder) == EngineChoice("cpu", "compiled", dtype)
    assert choose_engine(folder, dtype="float32").dtype == "float32"
    assert choose_engine(folder, dtype="bfloat16").dtype == "bfloat16"


def test_the_only_dtype_that_was_built_runs(folder: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    write_build(folder, "bfloat16")
    assert choose_engine(folder) == EngineChoice("cpu", "compiled", "bfloat16")
    without_bfloat16(monkeypatch)
    assert choose_engine(folder) == EngineChoice("cpu", "eager", "float32")


def test_a_build_for_something_else_is_not_used(folder: ModelFolder, caplog: pytest.LogCaptureFixture) -> None:
    write_build(folder, target=msgspec.structs.replace(this_machine(), torch="1.0.0"))
    assert choose_engine(folder) == EngineChoice("cpu", "eager", "float32")
    assert "built for torch 1.0.0" in caplog.text


def test_a_gpu_replays_graphs_unless_it_is_told_otherwise(folder: ModelFolder) -> None:
    write_build(folder)
    assert choose_engine(folder, "cuda") == EngineChoice("cuda", "graphs", "float32")
    assert choose_engine(folder, "cuda", dtype="bfloat16") == EngineChoice("cuda", "graphs", "bfloat16")
    assert choose_engine(folder, "cuda", engine="graphs") == EngineChoice("cuda", "graphs", "float32")
    assert choose_engine(folder, "cuda", engine="eager") == EngineChoice("cuda", "eager", "float32")


def test_the_packed_engine_has_behind_it_what_would_run_without_it(folder: ModelFolder) -> None:
    choice = choose_engine(folder, engine="packed")
    assert choice == EngineChoice("cpu", "packed", "float32", "eager")
    assert choice.behind == EngineChoice("cpu", "eager", "float32")
    write_build(folder)
    assert choose_engine(folder, engine="packed").behind == choose_engine(folder)
    assert choose_engine(folder).behind == EngineChoice("cpu", "compiled", "float32")


def test_auto_takes_it_where_subnets_were_packed(folder: ModelFolder) -> None:
    pack_path(folder, "float32", 0).mkdir(parents=True)
    assert choose_engine(folder) == choose_engine(folder, engine="packed")
    assert choose_engine(folder, engine="eager").engine == "eager"
    assert choose_engine(folder, dtype="bfloat16").engine == "eager"


def lose(folder: ModelFolder, runs: Runs, lost: int = 2) -> None:
    """Have it known that a subnet loses points."""
    for each, right in ((REFERENCE, 900), (runs, 900 - lost)):
        keep_answers(folder, each, [RightAnswers(subnet="s1", examples="test", n=1000, right=right)])


def test_auto_does_not_take_compiled_code_that_is_known_to_lose_points(
    folder: ModelFolder, caplog: pytest.LogCaptureFixture
) -> None:
    """The other dtype runs, or eager; who asks for it by name can evaluate it, and is refused when it is served."""
    write_build(folder, full_batch_us=100.0)
    write_build(folder, "bfloat16", full_batch_us=50.0)
    lose(folder, Runs("compiled", "bfloat16"), lost=1)
    assert choose_engine(folder).dtype == "bfloat16"
    lose(folder, Runs("compiled", "bfloat16"))
    assert choose_engine(folder) == EngineChoice("cpu", "compiled", "float32")
    assert "not taken by --engine auto" in caplog.text
    assert "s1 0.20 points" in caplog.text
    lose(folder, Runs("compiled", "float32"))
    assert choose_engine(folder) == EngineChoice("cpu", "eager", "float32")
    assert choose_engine(folder, engine="compiled").engine == "compiled"


def test_auto_on_a_gpu_does_not_take_graphs_that_are_known_to_lose_points(folder: ModelFolder) -> None:
    lose(folder, runs_of(EngineChoice("cuda", "graphs", "float32")))
    assert choose_engine(folder, "cuda") == EngineChoice("cuda", "eager", "float32")
    assert choose_engine(folder, "cuda", engine="graphs").engine == "graphs"


@pytest.mark.parametrize("engine", ["auto", "packed"])
def test_int8_is_packed_and_has_float32_behind_it(folder: ModelFolder, engine: str) -> None:
    choice = choose_engine(folder, engine=engine, dtype="int8")
    assert choice == EngineChoice("cpu", "packed", "int8", "eager")
    assert choice.behind == EngineChoice("cpu", "eager", "float32")
    write_build(folder, "bfloat16")
    assert choose_engine(folder, engine=engine, dtype="int8") == choice
    write_build(folder)
    assert choose_engine(folder, engine=engine, dtype="int8").behind == EngineChoice("cpu", "compiled", "float32")


def test_int8_is_not_taken_unasked(folder: ModelFolder) -> None:
    """Its packs may be of a trial, and its outputs are others."""
    pack_path(folder, "int8", 0).mkdir(parents=True)
    assert choose_engine(folder) == EngineChoice("cpu", "eager", "float32")
    assert choose_engine(folder, engine="packed").dtype == "float32"


def test_an_emulated_device_needs_no_model(tmp_path: Path) -> None:
    assert choose_engine(ModelFolder(tmp_path), "emulated:r-profile").engine == "emulated"


@pytest.mark.parametrize(
    ("device", "engine", "dtype", "words"),
    [
        ("tpu", "auto", "auto", "device 'tpu' is none of 'cpu', 'cuda' and 'emulated:PROFILE'"),
        ("cpu", "onnx", "auto", "engine 'onnx' is not one of auto, eager, compiled, packed, graphs"),
        ("cuda", "packed", "auto", "use --engine graphs"),
        ("cpu", "auto", "float16", "dtype 'float16' is not one of auto, float32, bfloat16, int8"),
        ("cpu", "eager", "int8", "engine 'eager' does not compute in int8: use --engine packed"),
        ("cpu", "compiled", "int8", "engine 'compiled' does not compute in int8: use --engine packed"),
        ("cuda", "auto", "int8", "use float32 or bfloat16 with --device cuda"),
        ("cuda", "compiled", "auto", "use --engine graphs"),
        ("cpu", "graphs", "auto", "runs on device 'cuda' only: leave out --engine"),
        ("cpu", "compiled", "auto", "run `superserve compile digits` first"),
        ("cpu", "compiled", "bfloat16", "run `superserve compile digits --dtype bfloat16` first"),
        ("emulated:r-profile", "eager", "auto", "leave out --engine"),
    ],
)
def test_wishes_that_cannot_be_granted_say_what_would_help(
    folder: ModelFolder, device: str, engine: str, dtype: str, words: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        choose_engine(folder, device, engine, dtype)
    assert words in str(refused.value)


def test_bfloat16_is_refused_where_the_processor_lacks_it(folder: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    without_bfloat16(monkeypatch)
    with pytest.raises(ConfigError, match="does not multiply it"):
        choose_engine(folder, dtype="bfloat16")


@pytest.mark.parametrize("engine", ["auto", "packed", "eager"])
def test_int8_is_refused_where_the_processor_lacks_it(
    folder: ModelFolder, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    monkeypatch.setattr(compile_module, "has_int8", lambda: False)
    with pytest.raises(ConfigError, match=r"no instructions for it .* use float32"):
        choose_engine(folder, engine=engine, dtype="int8")
