from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from superserve import profiler
from superserve.conditions import Conditions
from superserve.engine import EngineChoice
from superserve.errors import ConfigError, ModelFolderError, ProfileError
from superserve.frontend.deployment import _engine_wish, choose_profile, deploy
from superserve.model_folder import ModelFolder, write_json
from superserve.processor import cpu_name
from superserve.profile import Device, Profile, SubnetProfile
from superserve.profiler import Progress, save_profile
from superserve.profiler.store import THREADS
from superserve.serving.config import Config, resolve
from superserve.supernet.packed_store import pack_path
from superserve.supernet.points import labelled_examples
from superserve.supernet.right_answers import REFERENCE, RightAnswers, Runs, keep_answers
from support.folders import write_digits_like_folder

EAGER = EngineChoice("cpu", "eager", "float32")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelFolder:
    """The bundled digits, with an empty cache."""
    monkeypatch.setenv("SUPERSERVE_CACHE", str(tmp_path / "cache"))
    return ModelFolder.resolve("digits")


def profile_of(folder: ModelFolder, batches: tuple[int, ...] = (1, 16)) -> Profile:
    """A profile that fits a model on this machine."""
    row = tuple(1000.0 * batch for batch in batches)
    return Profile(
        device=Device(name=cpu_name(), kind="cpu", threads=THREADS, engine="eager", dtype="float32", torch="none"),
        model_hash=folder.model_hash,
        batches=batches,
        dispatch_overhead_us=500.0,
        subnets=tuple(
            SubnetProfile(id=record.id, accuracy=record.accuracy, p50_us=row, p95_us=row, p99_us=row)
            for record in folder.front.subnets
        ),
    )


def write(path: Path, profile: Profile) -> Path:
    write_json(path, profile)
    return path


def test_an_emulated_device_plans_with_its_own_profile(folder: ModelFolder) -> None:
    """Whatever the model's subnets are."""
    choice = EngineChoice("emulated:r-profile", "emulated", "none")
    assert choose_profile(folder, choice) == Profile.load("r-profile")


def test_a_given_profile_comes_before_the_kept_one(folder: ModelFolder, tmp_path: Path) -> None:
    """The kept one is found without being named."""
    kept = profile_of(folder)
    given = msgspec.structs.replace(kept, dispatch_overhead_us=1.0)
    save_profile(folder, kept)
    assert choose_profile(folder, EAGER) == kept
    assert choose_profile(folder, EAGER, write(tmp_path / "given.json", given)) == given


def test_without_any_profile_one_is_measured_and_kept(folder: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Quickly, telling of progress; the next start finds it."""
    steps: list[tuple[float, float, str]] = []

    def measure(
        model: ModelFolder, *, quick: bool, choice: EngineChoice, report: Callable[[Progress], None]
    ) -> SimpleNamespace:
        assert (quick, choice) == (True, EAGER)
        report(Progress("scan", 3, 7))
        return SimpleNamespace(profile=profile_of(model))

    monkeypatch.setattr(profiler, "measure", measure)
    measured = choose_profile(folder, EAGER, report=lambda *step: steps.append(step))
    assert steps == [(3, 7, "profile: scan")]
    monkeypatch.setattr(profiler, "measure", None)
    assert choose_profile(folder, EAGER) == measured == profile_of(folder)


def test_a_given_profile_of_another_engine_is_used_with_a_warning(
    folder: ModelFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = profile_of(folder)
    compiled = EngineChoice("cpu", "compiled", "bfloat16")
    assert choose_profile(folder, compiled, write(tmp_path / "given.json", given)) == given
    assert "measured on engine eager float32, but workers run compiled bfloat16 on cpu" in caplog.text


def test_a_doubtful_profile_is_used_with_a_warning(folder: ModelFolder, caplog: pytest.LogCaptureFixture) -> None:
    """Of the kept one, too: nobody sees what was printed when it was measured."""
    kept = msgspec.structs.replace(profile_of(folder), conditions=Conditions(worker_waited=0.4))
    save_profile(folder, kept)
    assert choose_profile(folder, EAGER) == kept
    assert "the profile of digits is doubtful" in caplog.text
    assert "worker's core 40% of the time" in caplog.text
    assert "superserve profile digits" in caplog.text


def test_a_sound_profile_is_used_silently(folder: ModelFolder, caplog: pytest.LogCaptureFixture) -> None:
    """And so is one of a release that did not look."""
    for conditions in (None, Conditions(worker_waited=0.01)):
        save_profile(folder, msgspec.structs.replace(profile_of(folder), conditions=conditions))
        choose_profile(folder, EAGER)
    assert "doubtful" not in caplog.text


@pytest.mark.parametrize("wrong", ["hash", "subnets", "order", "batches"])
def test_a_profile_of_another_model_is_refused(folder: ModelFolder, tmp_path: Path, wrong: str) -> None:
    """Its subnets are named by position when a batch is launched, so they must be the model's."""
    good = profile_of(folder)
    bad = {
        "hash": msgspec.structs.replace(good, model_hash="0" * 64),
        "subnets": msgspec.structs.replace(good, subnets=good.subnets[1:]),
        "order": msgspec.structs.replace(good, subnets=good.subnets[::-1]),
        "batches": profile_of(folder, (1, 16, 32)),
    }[wrong]
    with pytest.raises(ProfileError, match=r"superserve profile"):
        choose_profile(folder, EAGER, write(tmp_path / "bad.json", bad))


def config_of(tmp_path: Path, text: str = "") -> Config:
    path = tmp_path / "server.toml"
    path.write_text(f"[workers]\ndevice = 'emulated:r-profile'\n{text}")
    return resolve({}, {}, path).config


def test_models_come_from_the_command_line_and_the_configuration(tmp_path: Path) -> None:
    """Each once, those of the command line first; one that is named in both is the command line's."""
    one, two = (write_digits_like_folder(tmp_path / name, name) for name in ("one", "two"))
    config = config_of(tmp_path, f"[models.two]\nsource = '{two}'\n[models.one]\nsource = 'elsewhere'\n")
    found = deploy([str(one)], config)
    assert [model.folder.path for model in found] == [one, two]
    assert all(model.profile == Profile.load("r-profile") for model in found)


def test_models_that_cannot_be_told_apart_are_refused(tmp_path: Path) -> None:
    """With both folders, and what to change."""
    folders = [str(write_digits_like_folder(tmp_path / name)) for name in ("one", "two")]
    with pytest.raises(ConfigError, match=r"one.*two.*'digits'.*name"):
        deploy(folders, config_of(tmp_path))


def test_a_section_must_bear_its_models_name(tmp_path: Path) -> None:
    """Else its settings would be nobody's."""
    folder = write_digits_like_folder(tmp_path / "one")
    with pytest.raises(ConfigError, match=r"\[models.digits\]"):
        deploy([], config_of(tmp_path, f"[models.one]\nsource = '{folder}'\n"))


def test_there_must_be_a_model_and_one_for_a_profile(tmp_path: Path) -> None:
    """A profile on the command line cannot say whose it is."""
    config = config_of(tmp_path)
    with pytest.raises(ConfigError, match="no model"):
        deploy([], config)
    folders = [str(write_digits_like_folder(tmp_path / name, name)) for name in ("one", "two")]
    with pytest.raises(ConfigError, match=r"models\.NAME\.profile"):
        deploy(folders, config, [tmp_path / "p.json"])


def test_a_model_plans_with_the_profile_that_the_configuration_gives_it(folder: ModelFolder, tmp_path: Path) -> None:
    """A real device, so that it matters."""
    given = msgspec.structs.replace(profile_of(folder), dispatch_overhead_us=1.0)
    path = write(tmp_path / "given.json", given)
    config = resolve({}, {"SUPERSERVE_MODELS__DIGITS__PROFILE": str(path)}).config
    (model,) = deploy(["digits"], config)
    assert model.profile == given


def test_nodes_run_what_every_one_of_them_has(folder: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code that was compiled on this machine is not on others: by default they run eager torch."""
    wishes: list[str] = []

    def choose(_: ModelFolder, device: str, engine: str, dtype: str) -> EngineChoice:
        wishes.append(engine)
        return EngineChoice(device, "eager", "float32" if dtype == "auto" else dtype)

    monkeypatch.setattr("superserve.frontend.deployment.choose_engine", choose)
    save_profile(folder, profile_of(folder))
    for flags in ({}, {"workers.pool": "ray"}, {"workers.pool": "ray", "workers.engine": "compiled"}):
        deploy(["digits"], resolve(flags, {}).config)
    assert wishes == ["auto", "eager", "compiled"]


def test_what_is_known_to_lose_accuracy_is_refused_before_anything_is_measured(
    folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nodes of a cluster are other machines: their workers see for themselves."""
    examples = labelled_examples(folder)
    assert examples is not None
    for runs, lost in ((REFERENCE, 0), (Runs("eager", "bfloat16"), 2)):
        counts = [
            RightAnswers(subnet=record.id, examples=examples.hash, n=997, right=900 - lost)
            for record in folder.front.subnets
        ]
        keep_answers(folder, runs, counts)
    monkeypatch.setattr("superserve.supernet.compile.has_bfloat16", lambda: True)
    monkeypatch.setattr("superserve.frontend.deployment.choose_profile", lambda *_: profile_of(folder))
    asked = {"workers.engine": "eager", "workers.dtype": "bfloat16"}
    with pytest.raises(ModelFolderError, match=r"s0 0\.20 points .*: use --dtype float32"):
        deploy(["digits"], resolve(asked, {}).config)
    deploy(["digits"], resolve({**asked, "workers.pool": "ray"}, {}).config)
    deploy(["digits"], resolve({"workers.engine": "eager"}, {}).config)


@pytest.mark.parametrize("device", ["cuda", "emulated:r-profile"])
def test_nodes_need_no_compiler_for_other_devices(device: str) -> None:
    config = resolve({"workers.pool": "ray", "workers.device": device}, {}).config
    assert _engine_wish(config) == "auto"


@pytest.mark.parametrize(("slo_ms", "spare_us"), [(40.0, 8_000), (None, 10_000)])
def test_workers_have_a_fifth_of_the_slo_for_what_no_request_waits_for(
    folder: ModelFolder, slo_ms: float | None, spare_us: int
) -> None:
    """As idle work has; of the default SLO, too."""
    save_profile(folder, profile_of(folder))
    config = resolve({"model.slo_ms": slo_ms}, {}).config
    (model,) = deploy(["digits"], config)
    assert model.workers(config).spare_us == spare_us


def test_a_profile_for_each_device_of_the_workers(folder: ModelFolder, tmp_path: Path) -> None:
    """The first one is planned with wherever a worker is of none of them; their names are what workers tell."""
    here = profile_of(folder)
    there = msgspec.structs.replace(here, device=msgspec.structs.replace(here.device, name="another"))
    files = [write(tmp_path / f"{number}.json", profile) for number, profile in enumerate((here, there))]
    (model,) = deploy(["digits"], resolve({}, {}).config, files)
    assert (model.profile, model.others, model.devices) == (here, (there,), (cpu_name(), "another"))


def test_two_profiles_of_one_device_are_refused(folder: ModelFolder, tmp_path: Path) -> None:
    """Nobody could say which of them is to hold."""
    files = [write(tmp_path / f"{number}.json", profile_of(folder)) for number in range(2)]
    with pytest.raises(ConfigError, match="two are of the same device"):
        deploy(["digits"], resolve({}, {}).config, files)


def test_each_kind_of_device_wants_a_profile(folder: ModelFolder, tmp_path: Path) -> None:
    """What is on other nodes cannot be measured here; two GPUs of different names are of one kind."""
    here = profile_of(folder)
    files = [write(tmp_path / "cpu.json", here)]
    for name in ("one GPU", "another GPU"):
        device = msgspec.structs.replace(here.device, kind="cuda", name=name)
        files.append(write(tmp_path / f"{name}.json", msgspec.structs.replace(here, device=device)))
    config = resolve({"workers.device": "cuda,cpu", "workers.pool": "ray"}, {}).config
    (model,) = deploy(["digits"], config, files)
    assert model.devices == (cpu_name(), "one GPU", "another GPU")
    for given, missing in (((), "cuda"), (files[:1], "cuda"), (files[1:], "cpu")):
        with pytest.raises(ConfigError, match=f"no --profile is of '{missing}'.*profile MODEL --device {missing}"):
            deploy(["digits"], config, given)


def test_emulated_devices_have_the_profiles_that_workers_emulate(tmp_path: Path) -> None:
    """By the names that workers tell."""
    slow = write(tmp_path / "slow.json", Profile.load("r-profile"))
    config = resolve({"workers.device": f"emulated:r-profile,{slow}"}, {}).config
    (model,) = deploy([str(write_digits_like_folder(tmp_path / "one"))], config)
    assert model.devices == ("r-profile", str(slow))
    assert model.others == (Profile.load("r-profile"),)


@pytest.mark.parametrize(("key", "value"), [("idle.reprofile", True), ("record.folder", "recorded")])
def test_what_knows_one_profile_only_is_refused_where_workers_are_of_several_devices(
    tmp_path: Path, key: str, value: bool | str
) -> None:
    """Else it would measure, or keep, the one device's times as the other's."""
    slow = write(tmp_path / "slow.json", Profile.load("r-profile"))
    config = resolve({"workers.device": f"emulated:r-profile,{slow}", key: value}, {}).config
    with pytest.raises(ConfigError, match=f"{key}: works where the workers are of one device"):
        deploy([str(write_digits_like_folder(tmp_path / "one"))], config)


@pytest.fixture
def packed_here(folder: ModelFolder) -> ModelFolder:
    """A subnet has been packed: ``auto`` is the packed engine."""
    pack_path(folder, "float32", 0).mkdir(parents=True)
    save_profile(folder, profile_of(folder))
    return folder


def test_the_packed_engine_is_planned_with_two_profiles(packed_here: ModelFolder, tmp_path: Path) -> None:
    """The one behind it always, its own if there is one: kept, or given."""
    behind = profile_of(packed_here)
    (model,) = deploy(["digits"], resolve({}, {}).config)
    assert model.choice == EngineChoice("cpu", "packed", "float32", "eager")
    assert model.packing is not None
    assert (model.profile, model.packing.measured) == (behind, None)
    own = msgspec.structs.replace(behind, device=msgspec.structs.replace(behind.device, engine="packed"))
    (model,) = deploy(["digits"], resolve({}, {}).config, [write(tmp_path / "own.json", own)])
    assert model.packing is not None
    assert (model.profile, model.packing.measured) == (behind, own)
    save_profile(packed_here, own)
    (model,) = deploy(["digits"], resolve({}, {}).config)
    assert model.packing is not None
    assert (model.profile, model.packing.measured) == (behind, own)


@pytest.mark.parametrize("flags", [{"record.folder": "records"}, {"idle.reprofile": True}])
@pytest.mark.usefixtures("packed_here")
def test_what_knows_one_plan_goes_without_it_and_is_refused_beside_it(flags: dict[str, object]) -> None:
    (model,) = deploy(["digits"], resolve(flags, {}).config)
    assert (model.choice.engine, model.packing) == ("eager", None)
    with pytest.raises(ConfigError, match=f"{next(iter(flags))}: works with engines other than packed"):
        deploy(["digits"], resolve({**flags, "workers.engine": "packed"}, {}).config)


def test_nodes_hold_no_packed_subnets() -> None:
    with pytest.raises(ConfigError, match="works on this machine only"):
        deploy(["digits"], resolve({"workers.pool": "ray", "workers.engine": "packed"}, {}).config)
