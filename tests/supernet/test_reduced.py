"""Weights in bfloat16."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from superserve.errors import ModelFolderError
from superserve.model_folder import ModelFolder
from superserve.supernet.engine import EagerEngine
from superserve.supernet.hub import load_supernet
from superserve.supernet.operators import SubnetNorm
from superserve.supernet.reduced import load_supernet_in
from superserve.supernet.weights_file import reduced_path, weights_nbytes
from support.supernets import pixels


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERSERVE_CACHE", str(tmp_path / "cache"))


def test_float32_is_the_models_own_file(folder: ModelFolder) -> None:
    assert all(tensor.dtype == torch.float32 for tensor in load_supernet_in(folder, "float32").network.parameters())
    assert not reduced_path(folder, "float32").exists()
    assert weights_nbytes(folder, "float32") == folder.weights_path.stat().st_size


def test_all_but_normalisations_are_rounded_once_and_mapped(folder: ModelFolder, tmp_path: Path) -> None:
    whole, reduced = load_supernet(folder).network, load_supernet_in(folder, "bfloat16").network
    path = reduced_path(folder, "bfloat16")
    assert weights_nbytes(folder, "bfloat16") == path.stat().st_size < folder.weights_path.stat().st_size
    assert path.is_relative_to(tmp_path / "cache")
    written = path.stat()
    maps = Path("/proc/self/maps").read_text()
    assert str(path.resolve()) in maps
    for name, module in reduced.named_modules():
        for key, found in module.named_parameters(recurse=False):
            expected = whole.get_submodule(name).get_parameter(key)
            kept = isinstance(module, SubnetNorm)
            assert found.dtype == (torch.float32 if kept else torch.bfloat16)
            assert torch.equal(found, expected.to(found.dtype))
    load_supernet_in(folder, "bfloat16")
    assert path.stat().st_mtime_ns == written.st_mtime_ns
    assert path.stat().st_size < 0.75 * folder.weights_path.stat().st_size


@pytest.mark.parametrize("spoil", ["truncate", "other"])
def test_a_kept_file_that_does_not_fit_is_written_again(folder: ModelFolder, spoil: str) -> None:
    load_supernet_in(folder, "bfloat16")
    path = reduced_path(folder, "bfloat16")
    good = path.read_bytes()
    path.write_bytes(good[:1000] if spoil == "truncate" else folder.weights_path.read_bytes())
    load_supernet_in(folder, "bfloat16")
    assert path.read_bytes() == good


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_that_cannot_be_written_is_named(folder: ModelFolder, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir(mode=0o500)
    with pytest.raises(ModelFolderError, match="bfloat16 weights cannot be kept there"):
        load_supernet_in(folder, "bfloat16")


def test_a_cache_that_is_no_folder_is_named(folder: ModelFolder, tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    with pytest.raises(ModelFolderError, match="bfloat16 weights cannot be kept there"):
        load_supernet_in(folder, "bfloat16")


def test_the_eager_engine_computes_in_it_and_answers_in_float32(folder: ModelFolder) -> None:
    engine, whole, images = EagerEngine.load(folder, "bfloat16"), EagerEngine.load(folder), pixels(6)
    assert (engine.name, engine.dtype) == ("eager", "bfloat16")
    for subnet in range(3):
        found, expected = engine.run(subnet, [images])[0].copy(), whole.run(subnet, [images])[0]
        assert found.dtype == np.float32
        assert 1e-5 < np.abs(found - expected).max() / np.abs(expected).max() < 5e-2


def test_it_is_refused_where_it_is_not_accurate_enough(folder: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("superserve.supernet.accuracy.TOLERANCE", {"bfloat16": 1e-5})
    with pytest.raises(ModelFolderError, match=r"eager \(bfloat16\) differs from eager float32 by .* more than 1e-05"):
        EagerEngine.load(folder, "bfloat16")
