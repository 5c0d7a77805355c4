"""Builds of compiled code whose libraries are no code at all: enough for everything that looks before it loads."""

from pathlib import Path

from superserve.model_folder import ModelFolder, write_json
from superserve.supernet.builds import (
    FORMAT,
    MANIFEST_FILE,
    Build,
    BuiltSubnet,
    Target,
    build_path,
    file_names,
    sha256,
    this_machine,
)


def write_build(
    folder: ModelFolder, dtype: str = "float32", *, target: Target | None = None, full_batch_us: float = 100.0
) -> Path:
    """Keep a build of a folder in the user's cache, as if it had been compiled for a target (default: this machine)."""
    target = target or this_machine(dtype)
    path = build_path(folder, target)
    path.mkdir(parents=True)
    for private in (path, path.parent, path.parent.parent):
        private.chmod(0o700)
    records = folder.front.subnets
    files = [path / name for number in range(len(records)) for name in file_names(number)]
    for file in files:
        file.write_bytes(b"no code: " + file.name.encode())
    subnets = tuple(BuiltSubnet(id=record.id, seconds=1.0, full_batch_us=full_batch_us) for record in records)
    hashes = {file.name: sha256(file) for file in files}
    build = Build(format=FORMAT, model_hash=folder.model_hash, target=target, subnets=subnets, sha256=hashes)
    write_json(path / MANIFEST_FILE, build)
    for file in (*files, path / MANIFEST_FILE):
        file.chmod(0o600)
    return path
