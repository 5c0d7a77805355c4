"""A virtual environment per peer, which sees the packages of this one behind its own: torch is there once."""

import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Final

from peers.catalog import Peer

ROOT: Final = Path(__file__).parents[2]
ENVIRONMENTS: Final = ROOT / ".venv-peers"
INSTALL_LIMIT_S: Final = 600.0
_STAMP: Final = "installed"
_LAST_LINES: Final = 3


class NotInstallableError(Exception):
    """A peer's packages cannot be installed; the message has pip's last words."""


def python_of(peer: Peer) -> Path:
    """The interpreter of a peer's environment, which is made if need be; of our own where it needs no packages.

    Raises:
        NotInstallableError: if pip fails.
    """
    if not peer.packages:
        return Path(sys.executable)
    folder = ENVIRONMENTS / (peer.environment_of or peer.name)
    python = folder / "bin" / "python"
    stamp = folder / _STAMP
    if not stamp.exists():
        _make(folder, python, peer)
        stamp.write_text(" ".join(peer.packages) + "\n")
    return python


def version_of(peer: Peer) -> str:
    """The installed version of its first package."""
    if not peer.packages:
        return ""
    name = peer.packages[0].partition("[")[0]
    code = f"import importlib.metadata; print(importlib.metadata.version({name!r}))"
    answer = subprocess.run([python_of(peer), "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return answer.stdout.strip()


def _make(folder: Path, python: Path, peer: Peer) -> None:
    print(f"{peer.name}: installing {' '.join(peer.packages)}", flush=True)
    venv.create(folder, with_pip=False, symlinks=True)
    packages = next((folder / "lib").iterdir()) / "site-packages"
    (packages / "behind.pth").write_text(sysconfig.get_path("purelib") + "\n")
    if peer.patch:
        shutil.copy(Path(__file__).parent / "servers" / f"{peer.patch}.py", packages)
        (packages / f"{peer.patch}.pth").write_text(f"import {peer.patch}\n")
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    command += ["--disable-pip-version-check", "--constraint", str(ROOT / "constraints.txt"), *peer.packages]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=INSTALL_LIMIT_S)
    except subprocess.TimeoutExpired:
        raise NotInstallableError(f"pip did not finish within {INSTALL_LIMIT_S:.0f} s") from None
    if done.returncode:
        raise NotInstallableError(" ".join(done.stderr.split("\n")[-_LAST_LINES:]).strip())
