"""Which compiled code may be used: only this user's own, for this model, machine and torch, byte for byte."""

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from superserve.errors import ModelFolderError
from superserve.model_folder import ModelFolder
from superserve.supernet import builds
from superserve.supernet.builds import (
    FORMAT,
    MANIFEST_FILE,
    build_path,
    builds_path,
    find_build,
    load_build,
    this_machine,
)
from support.builds import write_build


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERSERVE_CACHE", str(tmp_path / "cache"))


def edit(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))


def test_what_was_built_is_found(folder: ModelFolder, caplog: pytest.LogCaptureFixture) -> None:
    assert find_build(folder) is None
    path = write_build(folder, full_batch_us=7.0)
    kept = find_build(folder)
    assert kept is not None
    assert kept.path == path
    assert [subnet.id for subnet in kept.build.subnets] == ["s0", "s1", "s2"]
    assert kept.full_batch_us == 21.0
    assert find_build(folder, "bfloat16") is None
    assert not caplog.records


def test_it_lies_in_the_users_cache_and_never_in_the_model_folder(folder: ModelFolder, tmp_path: Path) -> None:
    path = write_build(folder)
    assert path.is_relative_to(tmp_path / "cache")
    elsewhere = folder.path / "compiled"
    path.rename(elsewhere)
    assert find_build(folder) is None


def truncated_manifest(path: Path) -> Path:
    manifest = path / MANIFEST_FILE
    manifest.write_bytes(manifest.read_bytes()[:100])
    return manifest


def no_manifest(path: Path) -> Path:
    (path / MANIFEST_FILE).unlink()
    return path / MANIFEST_FILE


def unknown_key(path: Path) -> Path:
    edit(path / MANIFEST_FILE, b'"format"', b'"fromat"')
    return path / MANIFEST_FILE


def changed_library(path: Path) -> Path:
    edit(path / "1.so", b"no code", b"evil co")
    return path / "1.so"


def changed_constants(path: Path) -> Path:
    edit(path / "2.safetensors", b"no code", b"evil co")
    return path / "2.safetensors"


def no_library(path: Path) -> Path:
    (path / "0.so").unlink()
    return path / "0.so"


def unlisted_library(path: Path) -> Path:
    edit(path / MANIFEST_FILE, b'"0.so"', b'"9.so"')
    return path / "0.so"


def library_for_all(path: Path) -> Path:
    (path / "0.so").chmod(0o666)
    return path / "0.so"


def manifest_for_the_group(path: Path) -> Path:
    (path / MANIFEST_FILE).chmod(0o660)
    return path / MANIFEST_FILE


def folder_for_all(path: Path) -> Path:
    path.chmod(0o777)
    return path


def folder_above_for_all(path: Path) -> Path:
    path.parent.chmod(0o777)
    return path.parent


def other_format(path: Path) -> Path:
    edit(path / MANIFEST_FILE, b'"format": %d' % FORMAT, b'"format": 1')
    return path


def other_front(path: Path) -> Path:
    edit(path / MANIFEST_FILE, b'"s1"', b'"x1"')
    return path


def other_torch_in_place(path: Path) -> Path:
    edit(path / MANIFEST_FILE, b'"torch": "', b'"torch": "0')
    return path


@pytest.mark.parametrize(
    "spoil",
    [
        truncated_manifest, no_manifest, unknown_key, changed_library, changed_constants, no_library, unlisted_library,
        library_for_all, manifest_for_the_group, folder_for_all, folder_above_for_all, other_format, other_front,
        other_torch_in_place,
    ],
)  # fmt: skip
def test_what_may_not_be_used_is_ignored_with_a_warning_that_names_it_and_the_fix(
    folder: ModelFolder, caplog: pytest.LogCaptureFixture, spoil: Callable[[Path], Path]
) -> None:
    path = write_build(folder)
    named = spoil(path)
    assert find_build(folder) is None
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert str(named) in record.getMessage()
    assert "superserve compile" in record.getMessage()
    with pytest.raises(ModelFolderError):
        load_build(folder, path)


def test_another_users_build_is_refused(
    folder: ModelFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_build(folder)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert find_build(folder) is None
    assert "take their rights away" in caplog.text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"torch": "1.0.0"}, "torch 1.0.0, not "),
        ({"cpu": "0" * 16}, "another processor"),
        ({"superserve": "0.0.1"}, "SuperServe 0.0.1"),
    ],
)
def test_builds_for_something_else_are_ignored_with_a_warning_that_says_for_what(
    folder: ModelFolder, caplog: pytest.LogCaptureFixture, change: dict[str, str], words: str
) -> None:
    path = write_build(folder, target=msgspec.structs.replace(this_machine(), **change))
    assert find_build(folder) is None
    assert str(path) in caplog.text
    assert f"built for {words}" in caplog.text
    assert "superserve compile" in caplog.text
    with pytest.raises(ModelFolderError, match="built for"):
        load_build(folder, path)


def test_other_weights_are_another_model(folder: ModelFolder, caplog: pytest.LogCaptureFixture) -> None:
    """By content: a folder that was trained again finds nothing, and no warning either."""
    old = write_build(folder)
    edit(folder.path / "config.json", b'"random"', b'"chance"')
    changed = ModelFolder(folder.path)
    assert builds_path(changed) != builds_path(folder)
    assert find_build(changed) is None
    assert not caplog.records
    old.parent.rename(builds_path(changed))  # as if somebody had put it there
    assert find_build(changed) is None
    assert "built for another model" in caplog.text


def test_dtypes_lie_side_by_side(folder: ModelFolder) -> None:
    paths = {build_path(folder, this_machine(dtype)) for dtype in ("float32", "bfloat16")}
    assert len(paths) == 2
    assert len({path.parent for path in paths}) == 1


def test_code_of_an_earlier_format_is_told_apart_from_another_version(
    folder: ModelFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_build(folder)
    monkeypatch.setattr(builds, "FORMAT", builds.FORMAT + 1)
    assert find_build(folder) is None
    assert "an earlier format" in caplog.text
    assert "superserve compile" in caplog.text
