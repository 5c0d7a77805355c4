"""The wheel, alone in an empty environment, does what the README says of a plain installation."""

import json
import os
import shlex
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http

from support.server_process import ServerProcess, running

ROOT = Path(__file__).parents[2]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was built from it: ``DIST``, if that is set."""
    folder = Path(os.environ.get("DIST") or tmp_path_factory.mktemp("dist"))
    run(sys.executable, "-m", "build", "--outdir", folder, ROOT)
    return folder


@pytest.fixture(scope="module")
def wheel(distributions: Path) -> Path:
    (found,) = distributions.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that holds the wheel and what it asks for."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", folder)
    options = ["--quiet", "--constraint", f"{ROOT}/constraints.txt", *shlex.split(os.environ.get("PIP_ARGS", ""))]
    run(folder / "bin/python", "-m", "pip", "install", *options, wheel)
    return folder / "bin"


@pytest.fixture(scope="module")
def server(environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """``superserve serve digits``, which measures its profile first."""
    scratch = tmp_path_factory.mktemp("server")
    command = [str(environment / "superserve"), "serve", "digits", "--slo-ms", "2000"]
    with running(command, scratch=scratch, start_s=120, environment=isolated(scratch)) as started:
        yield started


def run(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=isolated(cwd), check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def isolated(scratch: Path | None) -> dict[str, str]:
    """The environment without what would let in another SuperServe, or a profile that is kept."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "SUPERSERVE"))}
    return kept if scratch is None else {**kept, "SUPERSERVE_CACHE": str(scratch / "cache")}


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    """Models, types, messages and the live page come with it; tests and caches do not."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    package = "superserve/"
    assert {name.partition("/")[0] + "/" for name in names} == {package, f"superserve-{VERSION}.dist-info/"}
    files = (path for path in (ROOT / "src" / package).rglob("*") if path.is_file() and path.suffix != ".pyc")
    assert {name for name in names if name.startswith(package)} == {
        str(path.relative_to(ROOT / "src")) for path in files
    }
    assert {f"{package}py.typed", f"{package}bundled/digits/model.safetensors"} <= names


def test_the_sdist_holds_what_its_pages_refer_to(distributions: Path) -> None:
    """Tests and documentation can be run from it."""
    (sdist,) = distributions.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"README.md", "LICENSE", "Makefile", "constraints.txt", "docs/architecture.md", "tests/conftest.py"}
    assert wanted <= names


def test_it_is_installed_without_extras(environment: Path, tmp_path: Path) -> None:
    """Requirements that contradict each other would be named; what only extras bring is not there."""
    run(environment / "python", "-m", "pip", "check")
    assert run(environment / "superserve", "--version", cwd=tmp_path).strip() == VERSION
    freeze = run(environment / "python", "-m", "pip", "freeze").lower()
    assert not {name for name in ("pytest", "ray", "scipy", "tritonclient") if f"\n{name}==" in freeze}


def test_the_bundled_models_are_there(environment: Path, tmp_path: Path) -> None:
    run(environment / "superserve", "models", "--json", tmp_path / "models.json", cwd=tmp_path)
    listed = json.loads((tmp_path / "models.json").read_bytes())["models"]
    assert {model["name"] for model in listed} == {"cifar10", "digits", "intents"}


def examples(environment: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Digits and what they show, out of the installed package."""
    (folder,) = environment.parent.glob("lib/python*/site-packages/superserve/bundled/digits")
    with np.load(folder / "test.npz") as archive:
        return archive["inputs"][:16], archive["labels"][:16]


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_tritonclient_is_answered(environment: Path, server: ServerProcess, protocol: str) -> None:
    """Unmodified, over either protocol, and nearly always right."""
    module: Any = {"http": tritonclient.http, "grpc": tritonclient.grpc}[protocol]
    images, labels = examples(environment)
    tensor = module.InferInput("image", list(images.shape), "UINT8")
    tensor.set_data_from_numpy(images)
    with module.InferenceServerClient({"http": server.address, "grpc": server.grpc}[protocol]) as client:
        assert client.is_server_ready()
        assert client.is_model_ready("digits")
        answer = client.infer("digits", [tensor]).as_numpy("logits").argmax(axis=1)
    assert (answer == labels).mean() > 0.8


def test_the_server_ends_when_it_is_told_to(server: ServerProcess) -> None:
    """With 0, and its workers with it. Runs last: the others need it."""
    assert server.stop() == 0
