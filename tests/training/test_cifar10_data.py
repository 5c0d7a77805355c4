"""Readers of both layouts, on made-up images."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from superserve.errors import CheckpointError, ConfigError
from superserve.training import cifar10_data
from superserve.training.cifar10_data import load_cifar10


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SUPERSERVE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def pictures(n: int) -> np.ndarray:
    """Flat colours, which JPEG keeps to within a few levels."""
    colours = np.random.default_rng(n).integers(0, 256, (n, 1, 1, 3), dtype=np.uint8)
    return np.broadcast_to(colours, (n, 32, 32, 3)).copy()


def pack(path: Path, images: np.ndarray, labels: list[int]) -> None:
    files = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG")
        files.append(buffer.getvalue())
    offsets = np.cumsum([0, *map(len, files)]).astype(np.uint32)
    content = np.frombuffer(b"".join(files), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, jpeg_bytes=content, offsets=offsets, labels=np.array(labels, np.uint8))


def records(images: np.ndarray, labels: list[int]) -> bytes:
    """The official layout: a label, then the red, the green and the blue plane."""
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    return b"".join(bytes([label]) + plane.tobytes() for label, plane in zip(labels, planes, strict=True))


@pytest.mark.parametrize("folder", ["cifar10", "."])
def test_reads_packed_jpeg_files(tmp_path: Path, folder: str) -> None:
    images = pictures(4)
    pack(tmp_path / folder / "cifar10_test.npz", images, [3, 1, 4, 1])
    split = load_cifar10(tmp_path, "test")
    assert split.inputs.shape == (4, 32, 32, 3)
    assert split.inputs.dtype == np.uint8
    assert np.abs(split.inputs.astype(int) - images).max() <= 4
    assert split.labels.tolist() == [3, 1, 4, 1]


def test_decodes_once_and_again_when_the_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    pack(tmp_path / "cifar10_train.npz", pictures(3), [0, 1, 2])
    first = load_cifar10(tmp_path, "train")
    assert len(list(cache.rglob("*.npy"))) == 1
    decode = cifar10_data._decode
    monkeypatch.setattr(cifar10_data, "_decode", None)
    assert np.array_equal(load_cifar10(tmp_path, "train").inputs, first.inputs)
    monkeypatch.setattr(cifar10_data, "_decode", decode)
    pack(tmp_path / "cifar10_train.npz", pictures(5), [0, 1, 2, 3, 4])
    assert len(load_cifar10(tmp_path, "train")) == 5


def test_reads_the_official_folder_and_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cifar10_data._BINARY, "train", ("data_batch_1.bin", "data_batch_2.bin"))
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    labels = [9, 0, 5, 5, 2]
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    (folder / "data_batch_1.bin").write_bytes(records(images[:2], labels[:2]))
    (folder / "data_batch_2.bin").write_bytes(records(images[2:], labels[2:]))
    packed = tmp_path / "packed"
    packed.mkdir()
    with tarfile.open(packed / "cifar-10-binary.tar.gz", "w:gz") as archive:
        archive.add(folder, "cifar-10-batches-bin")
    for place in (tmp_path, packed):
        split = load_cifar10(place, "train")
        assert np.array_equal(split.inputs, images)
        assert split.labels.tolist() == labels


def test_says_what_is_missing_and_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cifar10_train\.npz.*cifar-10-binary"):
        load_cifar10(tmp_path, "train")


def test_says_which_file_is_broken(tmp_path: Path) -> None:
    (tmp_path / "cifar10_test.npz").write_bytes(b"no archive")
    with pytest.raises(CheckpointError, match=r"cifar10_test\.npz"):
        load_cifar10(tmp_path, "test")
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(b"no archive")
    with pytest.raises(CheckpointError, match=r"cifar-10-binary"):
        load_cifar10(tmp_path, "train")


def test_says_which_image_file_is_broken(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "cifar10_test.npz",
        jpeg_bytes=np.zeros(10, np.uint8),
        offsets=np.array([0, 10], np.uint32),
        labels=np.array([0], np.uint8),
    )
    with pytest.raises(CheckpointError, match=r"cifar10_test\.npz"):
        load_cifar10(tmp_path, "test")
