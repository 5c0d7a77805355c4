"""A Dockerfile's steps without Docker: in a folder that stands for the root of each stage.

Absolute paths in instructions become paths below that folder; nothing else of a container is there. The base image is
this machine with its Python. Instructions that the project does not use are refused, so that none goes unnoticed.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from io import BytesIO
from pathlib import Path
from typing import Final, NamedTuple

from dockerfile_parse import DockerfileParser

#: Folders of an image that its steps make or fill.
_OWN: Final = ("/opt/", "/src", "/var/cache/", "/models")
_PATH: Final = re.compile(rf"(?<![\w.])(?:{'|'.join(map(re.escape, _OWN))})[\w./-]*")


class Instruction(NamedTuple):
    """One instruction: its name and what follows it, on one line."""

    name: str
    value: str


def instructions(dockerfile: Path) -> Iterator[Instruction]:
    """The instructions, without comments."""
    for one in DockerfileParser(fileobj=BytesIO(dockerfile.read_bytes())).structure:
        if one["instruction"] != "COMMENT":
            yield Instruction(one["instruction"], one["value"])


@dataclass
class Image:
    """What the last stage leaves: a root folder, and how its process is run."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)
    workdir: str = "/"
    user: str = "0:0"
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    healthcheck: list[str] = field(default_factory=list)
    stop_signal: str = "SIGTERM"

    def inside(self, text: str) -> str:
        """Text with the image's absolute paths in their place below its root."""
        return _PATH.sub(lambda path: f"{self.root}{path[0]}", text)

    @property
    def ids(self) -> tuple[int, int]:
        """User and group of its process."""
        user, _, group = self.user.partition(":")
        return int(user), int(group)

    @property
    def process_environment(self) -> dict[str, str]:
        """What its process finds in its environment."""
        found = {name: self.inside(value) for name, value in self.environment.items()}
        return {"PATH": os.environ["PATH"], **found}


class Builder:
    """Runs a Dockerfile's steps.

    Args:
        context: the folder of what is copied; its ``.dockerignore`` holds.
        root: an empty folder to work in.
        python: what the base image calls ``python``.
        arguments: values of build arguments, instead of the Dockerfile's.
    """

    def __init__(self, context: Path, root: Path, python: Path, arguments: Mapping[str, str]) -> None:
        self._context = context
        self._folder = root
        self._root = root / "root"
        self._arguments = dict(arguments)
        self._declared: dict[str, str] = {}
        self._stages: dict[str, Path] = {}
        self._stage = ""
        self.image = Image(self._root)
        programs = root / "bin"
        programs.mkdir()
        (programs / "python").symlink_to(python)
        self._path = f"{programs}{os.pathsep}{os.environ['PATH']}"

    def build(self, dockerfile: Path) -> Image:
        """Every step, in order.

        Raises:
            ValueError: for an instruction that is not known here.
            subprocess.CalledProcessError: if a command fails.
        """
        steps: dict[str, Callable[[str], None]] = {
            "FROM": self._from, "ARG": self._arg, "WORKDIR": self._workdir, "COPY": self._copy, "RUN": self._run,
            "ENV": self._env, "USER": self._user, "HEALTHCHECK": self._healthcheck, "ENTRYPOINT": self._entrypoint,
            "CMD": self._cmd, "STOPSIGNAL": self._stopsignal, "EXPOSE": self._expose,
        }  # fmt: skip
        for name, value in instructions(dockerfile):
            if name not in steps:
                raise ValueError(f"{name} {value}: not known here")
            steps[name](value)
        return self.image

    def _from(self, value: str) -> None:
        # A finished stage is put aside: what the next one does not copy is not at its place any more.
        if self._stage:
            self._stages[self._stage] = self._root.rename(self._folder / self._stage)
        _, _, self._stage = value.partition(" AS ")
        self._root.mkdir()
        self._root.chmod(0o755)
        self._declared = {}
        self.image = Image(self._root)

    def _arg(self, value: str) -> None:
        name, _, default = value.partition("=")
        self._declared[name] = self._arguments.get(name, shlex.split(default)[0] if default else "")

    def _workdir(self, value: str) -> None:
        self.image.workdir = value
        self._below(value).mkdir(parents=True, exist_ok=True)

    def _copy(self, value: str) -> None:
        words = value.split()
        source = self._context
        if words[0].startswith("--from="):
            source = self._stages[words.pop(0).removeprefix("--from=")]
        *names, target = words
        for name in names:
            self._copy_one(source, name, target, is_many=len(names) > 1)

    def _copy_one(self, source: Path, name: str, target: str, *, is_many: bool) -> None:
        place = self._below(target)
        if is_many or target.endswith("/"):
            place /= Path(name).name
        place.parent.mkdir(parents=True, exist_ok=True)
        if source is not self._context:
            # Gigabytes, and nobody looks at a finished stage again.
            shutil.move(source / name.lstrip("/"), place)
        elif ignored(source, name):
            raise ValueError(f"COPY {name}: .dockerignore leaves it out")
        elif (source / name).is_dir():
            shutil.copytree(source / name, place, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(source / name, place)

    def _run(self, value: str) -> None:
        environment = {"PATH": self._path, "HOME": os.environ.get("HOME", "/"), **self._pip(), **self._declared}
        subprocess.run(
            ["/bin/sh", "-ec", self.image.inside(value)],
            cwd=self._below(self.image.workdir),
            env=environment,
            check=True,
        )

    @staticmethod
    def _pip() -> dict[str, str]:
        """Where this machine's pip finds packages is no part of an image."""
        return {name: value for name, value in os.environ.items() if name.startswith("PIP_")}

    def _env(self, value: str) -> None:
        for word in shlex.split(value):
            name, _, content = word.partition("=")
            self.image.environment[name] = content.replace("$PATH", os.environ["PATH"])

    def _user(self, value: str) -> None:
        self.image.user = value

    def _healthcheck(self, value: str) -> None:
        self.image.healthcheck = json.loads(value.partition("CMD ")[2])

    def _entrypoint(self, value: str) -> None:
        self.image.entrypoint = json.loads(value)

    def _cmd(self, value: str) -> None:
        self.image.command = json.loads(value)

    def _stopsignal(self, value: str) -> None:
        self.image.stop_signal = value

    def _expose(self, value: str) -> None:
        """It is a remark, no step."""

    def _below(self, path: str) -> Path:
        """A path of the image, relative ones to its working directory."""
        return self._root / os.path.normpath(f"{self.image.workdir}/{path}" if path[0] != "/" else path).lstrip("/")


def ignored(context: Path, name: str) -> bool:
    """Whether ``.dockerignore`` leaves a top-level name out: the last pattern that fits decides."""
    verdict = False
    for line in (context / ".dockerignore").read_text().splitlines():
        pattern = line.strip()
        if pattern and not pattern.startswith("#") and fnmatch(name, pattern.removeprefix("!")):
            verdict = not pattern.startswith("!")
    return verdict
