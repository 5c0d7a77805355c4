"""How a node comes by a model."""

import shutil
from pathlib import Path

import msgspec
import pytest

from superserve.errors import ModelFolderError
from superserve.model_folder import FRONT_FILE, ModelFolder, bundled_models
from superserve.serving import ray_models
from superserve.serving.choice import choose_engine
from superserve.serving.devices import workers_for
from superserve.serving.ipc import Setup
from superserve.serving.ray_actor import RayWorker
from superserve.serving.ray_messages import LOAD_ANSWER, Load, Loaded, Missing, encode
from superserve.serving.ray_models import ModelSource, located, source_of
from support.fake_cluster import TOY


@pytest.fixture
def router_folder(tmp_path: Path) -> ModelFolder:
    """A model that the router has, and a node may not have."""
    shutil.copytree(bundled_models()["digits"], tmp_path / "router")
    return ModelFolder(tmp_path / "router")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERSERVE_CACHE", str(tmp_path / "cache"))


def source(folder: ModelFolder) -> ModelSource:
    found = source_of(workers_for(folder, choose_engine(folder, engine="eager")))
    assert found is not None
    return found


def test_the_same_path_will_do(router_folder: ModelFolder) -> None:
    """As on a shared file system: nothing is sent."""
    found = ray_models.find(source(router_folder))
    assert found is not None
    assert found.path == router_folder.path.resolve()


def test_a_bundled_model_is_found_by_its_name() -> None:
    """Wherever the package lies on that node."""
    folder = ModelFolder(bundled_models()["digits"], bundled=True)
    elsewhere = msgspec.structs.replace(source(folder), path="/nowhere")
    found = ray_models.find(elsewhere)
    assert found is not None
    assert found.bundled


def test_another_version_at_the_same_path_is_not_used(router_folder: ModelFolder) -> None:
    """The node gets the router's."""
    wanted, files = source(router_folder), ray_models.read(source(router_folder))
    here = {name: file.copy() for name, file in files.items()}
    front = router_folder.path / FRONT_FILE
    front.write_text(front.read_text().replace('"measured_on"', ' "measured_on"'))
    assert ray_models.find(wanted) is None
    kept = ray_models.keep(wanted, here)
    assert kept.model_hash == wanted.model_hash
    found = ray_models.find(wanted)
    assert found is not None
    assert found.path == kept.path


def test_what_comes_is_checked(router_folder: ModelFolder) -> None:
    """Files that were overwritten since the server started are not served as what it planned with."""
    wanted = msgspec.structs.replace(source(router_folder), model_hash="0" * 64, path="/nowhere")
    with pytest.raises(ModelFolderError, match="another version than the router's"):
        ray_models.keep(wanted, ray_models.read(source(router_folder)))
    assert ray_models.find(wanted) is None


def test_a_cache_that_cannot_be_written_is_named(router_folder: ModelFolder, tmp_path: Path) -> None:
    """With the operating system's words."""
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(ModelFolderError, match="cannot be kept at"):
        ray_models.keep(source(router_folder), ray_models.read(source(router_folder)))


def test_a_worker_asks_for_the_files_that_its_node_lacks(router_folder: ModelFolder, tmp_path: Path) -> None:
    """Once: the next worker of the node finds them. It runs a toy from there: what loads it does not matter."""
    wanted = msgspec.structs.replace(source(router_folder), path="/nowhere")
    spec = located(TOY, router_folder)
    request = encode(Load((Setup(0, spec, 5),), {5: wanted}))
    assert LOAD_ANSWER.decode(RayWorker().load(request)) == Missing((5,))
    worker = RayWorker()
    loaded = LOAD_ANSWER.decode(worker.load(request, (5,), ray_models.read(source(router_folder))))
    assert isinstance(loaded, Loaded)
    assert loaded.models[0].model == 5
    assert str(worker._models[5].model.setup.spec.options["folder"]).startswith(str(tmp_path / "cache"))
    assert isinstance(LOAD_ANSWER.decode(RayWorker().load(request)), Loaded)


def test_an_emulated_worker_needs_no_folder() -> None:
    """Its profile has a name."""
    assert source_of(TOY) is None
