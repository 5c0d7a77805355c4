"""Fetching public weights, from addresses that answer here without a network."""

import io
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from superserve.errors import CheckpointError, ConfigError
from superserve.supernet.importing import FAMILIES
from superserve.supernet.importing.download import download


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERSERVE_CACHE", str(tmp_path))


def test_files_are_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(url: str, timeout: float) -> io.BytesIO:
        asked.append(url)
        return io.BytesIO(url.encode())

    monkeypatch.setattr(urllib.request, "urlopen", answer)
    for _ in range(2):
        folder = download(FAMILIES["dynabert"], "MNLI")
    assert folder.is_relative_to(tmp_path)
    assert asked == list(FAMILIES["dynabert"].urls["MNLI"].values())
    assert {path.name: path.read_text() for path in folder.iterdir()} == FAMILIES["dynabert"].urls["MNLI"]


def test_a_broken_transfer_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(io.BytesIO):
        def read(self, *_size: Any) -> bytes:
            raise TimeoutError("timed out")

    monkeypatch.setattr(urllib.request, "urlopen", lambda *_arguments, **_options: Broken())
    family = FAMILIES["ofa_mobilenet_v3"]
    with pytest.raises(CheckpointError, match=r"w1.0: timed out: fetch it by other means"):
        download(family, "w1.0")
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_arguments, **_options: io.BytesIO(b"whole"))
    assert [path.read_bytes() for path in download(family, "w1.0").iterdir()] == [b"whole"]


def test_an_unreachable_address_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: Any, **_options: Any) -> None:
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    with pytest.raises(CheckpointError, match=r"https://huggingface.co/han-cai/.*no route"):
        download(FAMILIES["ofa_resnet50"], "ofa_resnet50")


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("dynabert", "no published variant 'QQP'; there are MNLI, SST-2"),
        ("dynabert_roberta", "no published weights: give a file or a folder of your own"),
    ],
)
def test_what_is_not_published_is_said(family: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        download(FAMILIES[family], "QQP")


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_addresses_are_encrypted(family: Any) -> None:
    assert all(url.startswith("https://") for files in family.urls.values() for url in files.values())
