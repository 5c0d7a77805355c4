"""The repository over a fake pool: what is loaded from where, and what is refused."""

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from superserve.clock import ManualClock, MonotonicClock
from superserve.engine import EngineChoice
from superserve.errors import (
    ConfigError,
    ConflictError,
    InvalidRequestError,
    LoadError,
    ModelFolderError,
    ProfileError,
    SuperServeError,
    UnavailableError,
    UnknownModelError,
    UnsupportedError,
    WorkerError,
)
from superserve.frontend.deployment import Deployment, deploy
from superserve.frontend.repository import ModelRepository
from superserve.frontend.server import Server
from superserve.model_folder import ModelFolder
from superserve.profile import Profile
from superserve.serving.config import resolve
from superserve.serving.dataplane import ServedModel
from superserve.serving.fake_pool import FakePool
from superserve.serving.inference import InferRequest, InputTensor
from superserve.serving.ipc import WorkerSpec
from superserve.serving.pool import Batch
from support.folders import write_digits_like_folder
from support.serving import Recorder

EMULATED = EngineChoice("emulated:r-profile", "emulated", "none")


class SlowPool(FakePool):
    """Loads when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()
        self.go = asyncio.Event()

    async def add(self, spec: WorkerSpec) -> int:
        self.asked.set()
        await self.go.wait()
        return await super().add(spec)


class Bench:
    """A server without sockets: one model from the start, and a repository with others."""

    def __init__(
        self,
        root: Path,
        *,
        repository: bool = True,
        device: str = "emulated:r-profile",
        environ: dict[str, str] | None = None,
        pool: FakePool | None = None,
    ) -> None:
        self.root = root / "repository"
        self.root.mkdir()
        flags = {"workers.device": device, "repository.folder": str(self.root) if repository else None}
        self.pool = pool or FakePool()
        first = Deployment(
            ModelFolder(write_digits_like_folder(root / "first", "first")), EMULATED, Profile.load("r-profile")
        )
        clock = MonotonicClock(asyncio.get_running_loop())
        self.server = Server(resolve(flags, environ or {}).config, [first], self.pool, clock)

    @property
    def repository(self) -> ModelRepository:
        return self.server.repository

    def write(self, name: str, inside: str = "") -> Path:
        return write_digits_like_folder(self.root / name / inside, name)

    def states(self) -> dict[str, tuple[str, str]]:
        return {model.name: (model.state, model.reason) for model in self.repository.index()}

    async def started(self) -> "Bench":
        for model in self.server.models:
            await model.router.start()
        return self


async def test_a_model_is_loaded_and_unloaded(tmp_path: Path) -> None:
    """It is there in between, and the index says so; the workers hold it as long."""
    bench = await Bench(tmp_path).started()
    bench.write("second")
    bench.write("third")
    plane, repository = bench.server.plane, bench.repository
    assert bench.states() == {
        "first": ("READY", ""), "second": ("UNAVAILABLE", "not loaded"), "third": ("UNAVAILABLE", "not loaded")
    }  # fmt: skip
    assert not plane.model_ready("second")
    await repository.load("second")
    assert plane.model("second").ready
    assert bench.pool.models == {0, 1}
    assert [model.name for model in repository.index(ready_only=True)] == ["first", "second"]
    assert bench.states()["second"] == ("READY", "")
    await repository.load("second")
    assert bench.pool.models == {0, 1}, "it was loaded already"
    await repository.unload("second", {"unload_dependents": False})
    assert bench.pool.models == {0}
    assert bench.states()["second"] == ("UNAVAILABLE", "unloaded")
    assert not plane.model_ready("second")
    with pytest.raises(UnknownModelError):
        plane.model("second")
    await repository.load("second")
    assert bench.pool.models == {0, 2}


async def test_the_last_model_can_go_and_another_come(tmp_path: Path) -> None:
    """The pool stops without models, and starts with the next one."""
    bench = await Bench(tmp_path).started()
    bench.write("second")
    await bench.repository.unload("first")
    assert bench.pool.stopped
    assert bench.states() == {"second": ("UNAVAILABLE", "not loaded")}
    await bench.repository.load("second")
    assert bench.server.plane.ready


async def test_the_newest_version_is_loaded(tmp_path: Path) -> None:
    """Of subfolders that are numbers; ten comes after nine."""
    bench = await Bench(tmp_path).started()
    bench.write("second", "9")
    bench.write("second", "10")
    (bench.root / "second" / "latest").mkdir()
    (bench.root / "second" / "9" / "config.json").write_text("{")
    await bench.repository.load("second")
    await bench.repository.load("second")


def finite(batch: Batch) -> list[bytes]:
    return [np.zeros((batch.rows, 10), np.float32).tobytes()]


def no_numbers(batch: Batch) -> list[bytes]:
    return [np.full((batch.rows, 10), np.nan, np.float32).tobytes()]


class HeardPool(FakePool):
    """Tells when it is given a batch."""

    def __init__(self, respond: Callable[[Batch], list[bytes]]) -> None:
        super().__init__(respond=respond)
        self.busy = asyncio.Event()

    def launch(self, worker: int, batch: Batch) -> None:
        super().launch(worker, batch)
        self.busy.set()


async def test_a_changed_model_takes_the_place_of_the_one_that_is_served(tmp_path: Path) -> None:
    """What that one has admitted it answers itself; whoever comes later is answered by the new one."""
    pool = HeardPool(finite)
    bench = await Bench(tmp_path, pool=pool).started()
    bench.write("second", "1")
    await bench.repository.load("second")
    before = bench.server.plane.models["second"]
    bench.write("second", "2")
    replacing = asyncio.ensure_future(bench.repository.load("second"))
    await pool.busy.wait()
    assert bench.server.plane.models["second"] is before, "not before it has answered"
    asked = Recorder()
    submit(before, asked)
    bench.pool.finish(0)
    await asyncio.sleep(0)
    after = bench.server.plane.models["second"]
    assert after is not before
    assert after.ready
    await asyncio.sleep(0)
    assert not replacing.done(), "the old one has something to answer"
    bench.pool.finish(0)
    await replacing
    assert len(asked.answers) == 1
    assert bench.states()["second"] == ("READY", "")
    assert len(bench.pool.models) == 2, "the workers hold the first model, and this one once"


@pytest.mark.parametrize("fails", [False, True])
async def test_a_model_that_does_not_answer_is_taken_back(tmp_path: Path, fails: bool) -> None:
    """With what is no number, or not at all; the one before it has never been away."""
    pool = HeardPool(no_numbers)
    bench = await Bench(tmp_path, pool=pool).started()
    bench.write("second", "1")
    await bench.repository.load("second")
    before, held = bench.server.plane.models["second"], set(bench.pool.models)
    bench.write("second", "2")
    replacing = asyncio.ensure_future(bench.repository.load("second"))
    await pool.busy.wait()
    if fails:
        bench.pool.fail(0)
    else:
        bench.pool.finish(0)
    with pytest.raises(LoadError, match="a row of zeros"):
        await replacing
    assert bench.server.plane.models["second"] is before
    assert before.ready
    assert bench.pool.models == held
    assert bench.states()["second"][0] == "READY"


async def test_a_changed_model_that_cannot_be_loaded_leaves_the_old_one(tmp_path: Path) -> None:
    bench = await Bench(tmp_path).started()
    newest = bench.write("second", "1")
    await bench.repository.load("second")
    before = bench.server.plane.models["second"]
    (newest / "subnets.json").write_text("changed")
    bench.pool.error = WorkerError("no")
    with pytest.raises(LoadError, match="cannot be loaded"):
        await bench.repository.load("second")
    assert bench.server.plane.models["second"] is before


def submit(model: ServedModel, responder: Recorder) -> None:
    """One row of zeros."""
    row = InputTensor("image", "UINT8", (1, 8, 8), bytes(64))
    checked = model.check(InferRequest(inputs=[row], slo_ms=10_000.0))
    model.submit(checked, asyncio_ns(), responder)


def asyncio_ns() -> int:
    return MonotonicClock(asyncio.get_running_loop()).now_ns()


async def test_settings_by_name_hold_for_a_model_that_is_loaded(tmp_path: Path) -> None:
    """As if it had been served from the start."""
    environ = {"SUPERSERVE_MODELS__SECOND__POLICY": "maxacc", "SUPERSERVE_MODELS__SECOND__SLO_MS": "20"}
    bench = await Bench(tmp_path, environ=environ).started()
    bench.write("second")
    await bench.repository.load("second")
    model = bench.server.plane.model("second")
    assert (model.router.policy_name, model.slo_ms) == ("maxacc", 20.0)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../first", "a/b", "/etc", ".hidden", "a b", "a\\b", "x" * 300, "second\n", "a\0b"]
)
async def test_a_name_is_no_path(tmp_path: Path, name: str) -> None:
    """Nothing outside of the repository can be named."""
    bench = await Bench(tmp_path).started()
    with pytest.raises(InvalidRequestError, match="no name of a model"):
        await bench.repository.load(name)
    assert not bench.server.plane.can_load(name)


async def test_what_cannot_be_loaded_is_said_and_changes_nothing(tmp_path: Path) -> None:
    """With the error's own class; the index remembers the reason."""
    bench = await Bench(tmp_path).started()
    bench.write("good")
    (bench.root / "empty").mkdir()
    (bench.root / "noise").mkdir()
    (bench.root / "noise" / "config.json").write_text("{")
    write_digits_like_folder(bench.root / "misnamed", "other")
    (bench.write("headless") / "subnets.json").unlink()
    expected: dict[str, type[SuperServeError]] = {
        "absent": UnknownModelError,
        "empty": ModelFolderError,
        "noise": ModelFolderError,
        "misnamed": ModelFolderError,
        "headless": ModelFolderError,
    }
    for name, error in expected.items():
        with pytest.raises(error) as caught:
            await bench.repository.load(name)
        if name != "absent":
            assert bench.states()[name] == ("UNAVAILABLE", str(caught.value))
    with pytest.raises(InvalidRequestError, match="config"):
        await bench.repository.load("good", {"config": "{}"})
    with pytest.raises(UnknownModelError):
        await bench.repository.unload("good")
    assert bench.pool.models == {0}
    assert bench.server.plane.ready


async def test_workers_that_cannot_load_it_leave_it_unloaded(tmp_path: Path) -> None:
    """Out of memory, say; it can be tried again."""
    bench = await Bench(tmp_path).started()
    bench.write("second")
    bench.pool.error = WorkerError("worker 0 cannot start: process 1 killed by SIGKILL")
    with pytest.raises(LoadError, match="SIGKILL"):
        await bench.repository.load("second")
    assert list(bench.server.plane.models) == ["first"]
    assert "SIGKILL" in bench.states()["second"][1]
    bench.pool.error = None
    await bench.repository.load("second")
    bench.pool.error = WorkerError("no")
    with pytest.raises(LoadError, match="still hold"):
        await bench.repository.unload("second")
    assert list(bench.server.plane.models) == ["first"]


async def test_without_a_profile_a_real_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measuring one beside running models would disturb both."""
    monkeypatch.setenv("SUPERSERVE_CACHE", str(tmp_path / "cache"))
    bench = await Bench(tmp_path, device="cpu").started()
    bench.write("second")
    with pytest.raises(ProfileError, match="superserve profile"):
        await bench.repository.load("second")


async def test_a_model_whose_accuracy_is_unknown_or_not_enough_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is counted beside running models either."""
    asked: list[tuple[EngineChoice, bool]] = []

    def require_points(_: ModelFolder, choice: EngineChoice, *, may_count: bool) -> None:
        asked.append((choice, may_count))
        raise ModelFolderError("it loses 0.20 points")

    monkeypatch.setattr("superserve.frontend.repository.require_points", require_points)
    monkeypatch.setattr("superserve.frontend.repository.kept_profile", lambda *_: Profile.load("r-profile"))
    bench = await Bench(tmp_path, device="cpu").started()
    bench.write("second")
    with pytest.raises(ModelFolderError, match=r"it loses 0\.20 points"):
        await bench.repository.load("second")
    assert asked == [(EngineChoice("cpu", "eager", "float32"), False)]
    assert "second" not in bench.server.plane.models


async def test_one_change_of_a_model_at_a_time(tmp_path: Path) -> None:
    """Whoever asks for a second one is told to wait; changes of other models wait by themselves."""
    pool = SlowPool()
    bench = await Bench(tmp_path, pool=pool).started()
    bench.write("second")
    bench.write("third")
    repository = bench.repository
    loads = [asyncio.ensure_future(repository.load(name)) for name in ("second", "third")]
    await pool.asked.wait()
    assert bench.states()["second"][0] == bench.states()["third"][0] == "LOADING"
    with pytest.raises(ConflictError, match="being loaded"):
        await repository.load("second")
    with pytest.raises(ConflictError, match="being loaded"):
        await repository.unload("second")
    loads[0].cancel()
    await asyncio.sleep(0)
    assert bench.states()["second"][0] == "LOADING", "a client that leaves does not stop a load"
    pool.go.set()
    await loads[1]
    assert bench.states()["second"] == bench.states()["third"] == ("READY", "")


async def test_a_server_that_stops_gives_up_loading(tmp_path: Path) -> None:
    """Who waits for it hears of that, and nothing is begun any more."""
    pool = SlowPool()
    bench = await Bench(tmp_path, pool=pool).started()
    bench.write("second")
    load = asyncio.ensure_future(bench.repository.load("second"))
    await pool.asked.wait()
    await bench.repository.close()
    with pytest.raises(UnavailableError):
        await load
    with pytest.raises(UnavailableError):
        await bench.repository.load("second")


async def test_without_a_repository_nobody_loads_anything(tmp_path: Path) -> None:
    """The setting is named; the extension is not advertised."""
    bench = await Bench(tmp_path, repository=False).started()
    for call in (bench.repository.load("first"), bench.repository.unload("first")):
        with pytest.raises(UnsupportedError, match="--model-repository"):
            await call
    with pytest.raises(UnsupportedError):
        bench.repository.index()
    assert "model_repository" not in bench.server.plane.metadata.extensions
    assert bench.server.plane.ready


async def test_a_server_may_begin_with_nothing_but_a_repository(tmp_path: Path) -> None:
    """Its workers start with the first model."""
    root = tmp_path / "models"
    write_digits_like_folder(root / "second", "second")
    flags = {"workers.device": "emulated:r-profile", "repository.folder": str(root)}
    config = resolve(flags, {}).config
    assert deploy([], config) == []
    pool = FakePool()
    server = Server(config, [], pool, MonotonicClock(asyncio.get_running_loop()))
    await server.repository.load("second")
    assert server.plane.model("second").ready


def test_a_repository_must_be_there(tmp_path: Path) -> None:
    """Found out at the start, not with the first load."""
    config = resolve({"repository.folder": str(tmp_path / "absent")}, {}).config
    with pytest.raises(ConfigError, match="absent is no folder"):
        Server(config, [], FakePool(), ManualClock())


async def test_a_repository_that_has_gone_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As is a file that cannot be read; whoever waits gets an answer."""
    bench = await Bench(tmp_path).started()
    bench.write("second")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "model.safetensors")

    with monkeypatch.context() as patch:
        patch.setattr(bench.repository, "_prepared", refuse)
        with pytest.raises(ModelFolderError, match="Permission denied"):
            await bench.repository.load("second")
    shutil.rmtree(bench.root)
    with pytest.raises(ModelFolderError, match="cannot be read"):
        bench.repository.index()
    with pytest.raises(UnknownModelError):
        await bench.repository.load("second")
