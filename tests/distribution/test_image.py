"""The Dockerfile's steps give a server that is healthy, is nobody in particular, and ends when it is told to."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from support.dockerfile import Builder, Image, ignored, instructions
from support.ports import free_port

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "Dockerfile"
START_S = 240.0


def everybodys_python() -> Path:
    """A Python of at least 3.11 that a user without rights may run: root's own are often in its home."""
    for found in (os.path.realpath(sys.executable), shutil.which("python3", path="/usr/local/bin:/usr/bin")):
        path = Path(found or "/nowhere")
        if path.exists() and all(folder.stat().st_mode & 0o005 == 0o005 for folder in path.parents):
            newer = subprocess.run([path, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"], check=False)
            if newer.returncode == 0:
                return path
    pytest.skip("no Python from 3.11 on that other users may run")


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    """Every step of the Dockerfile, in a folder that other users may read."""
    if os.geteuid() != 0:
        pytest.skip("steps of an image run as root, its process as another user")
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    try:
        # Where packages come from is this machine's business (make sets it, if only to nothing).
        arguments = {"PIP_ARGS": os.environ["PIP_ARGS"]} if "PIP_ARGS" in os.environ else {}
        yield Builder(ROOT, folder, everybodys_python(), arguments).build(DOCKERFILE)
    finally:
        shutil.rmtree(folder)


@contextmanager
def started(image: Image, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Its process, on a port of its own; alive inside the block, gone after it."""
    user, group = image.ids
    environment = image.process_environment | {
        "SUPERSERVE_SERVER__HTTP_PORT": str(port),
        "SUPERSERVE_SERVER__GRPC_PORT": "0",
        "SUPERSERVE_SERVER__METRICS_PORT": "0",
    }
    process = subprocess.Popen(
        [shutil.which(image.entrypoint[0], path=environment["PATH"]) or "", *image.entrypoint[1:], *image.command],
        cwd=image.inside(image.workdir),
        env=environment,
        user=user,
        group=group,
        extra_groups=[],
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def healthy(image: Image, port: int) -> bool:
    """What the health check says, as it is written, but for the port."""
    user, group = image.ids
    command = [word.replace(":8000/", f":{port}/") for word in image.healthcheck]
    done = subprocess.run(
        command, env=image.process_environment, user=user, group=group, check=False, capture_output=True
    )
    return done.returncode == 0


def test_it_serves_as_nobody_and_drains_when_it_is_told_to(image: Image) -> None:
    """Unhealthy before it is ready, healthy then; root is not needed, and the end is clean."""
    port = free_port()
    assert not healthy(image, port)
    with started(image, port) as process:
        until = time.monotonic() + START_S
        while not healthy(image, port):
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.5)
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        assert len(family) > 1
        assert {one.uids().real for one in family} == {image.ids[0]}
        process.send_signal(signal.Signals[image.stop_signal])
        assert process.wait(40) == 0
        assert not [one for one in family if one.is_running()]


def test_its_profile_is_kept_where_a_volume_belongs(image: Image) -> None:
    """What the server of the test above has measured."""
    assert list(Path(image.inside("/var/cache/superserve")).rglob("profiles/*/*.json"))


def test_what_is_not_needed_is_not_in_it(image: Image) -> None:
    """Neither sources nor tests, and no step in between."""
    assert sorted(path.name for path in image.root.iterdir()) == ["opt", "var"]
    assert not image.root.with_name("build").joinpath("opt/superserve").exists()


def test_no_shell_stands_between() -> None:
    """Signals reach the server; the user has a number, which Kubernetes can tell from root's."""
    found = {one.name: one.value for one in instructions(DOCKERFILE)}
    assert found["ENTRYPOINT"].startswith("[")
    assert found["CMD"].startswith("[")
    assert "CMD [" in found["HEALTHCHECK"]
    assert all(number.isdigit() and int(number) > 0 for number in found["USER"].split(":"))


def test_the_context_is_what_is_copied() -> None:
    """And nothing that a checkout may hold besides."""
    copied = {
        name
        for one in instructions(DOCKERFILE)
        if one.name == "COPY" and "--from" not in one.value
        for name in shlex.split(one.value)[:-1]
    }
    assert not [name for name in copied if ignored(ROOT, name)]
    assert {path.name for path in ROOT.iterdir() if not ignored(ROOT, path.name)} == copied


@pytest.mark.parametrize("name", [".git", ".venv", "tests", "deploy", "demo-report"])
def test_everything_else_is_ignored(name: str) -> None:
    assert ignored(ROOT, name)
