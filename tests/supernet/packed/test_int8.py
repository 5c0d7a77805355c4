"""Packing in int8: fitted to examples, checked on others, with more in float32 where that is needed, or refused."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from superserve.errors import ModelFolderError
from superserve.model_folder import ModelFolder
from superserve.processor import has_int8
from superserve.supernet.engine import EagerEngine
from superserve.supernet.hub import load_supernet, save_supernet
from superserve.supernet.packed import build as build_module
from superserve.supernet.packed import quantise as quantise_module
from superserve.supernet.packed import ranges as ranges_module
from superserve.supernet.packed.build import build_packed
from superserve.supernet.packed.examples import keep_examples
from superserve.supernet.packed.module import PackedModule, SharedParts
from superserve.supernet.packed.program import PROGRAM_FILE, Program
from superserve.supernet.packed.quantise import Affine
from superserve.supernet.packed.ranges import Ranges, affine_of
from superserve.supernet.reduced import load_supernet_in
from support.supernets import TINY, pixels, small_supernet

pytestmark = [
    pytest.mark.skipif(not has_int8(), reason="without instructions for them, sums of integers may overflow"),
    # torch's tracer warns about parts of torch.
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
]

LARGEST = 1
ROWS = 80


@pytest.fixture(autouse=True)
def _large_and_uncached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every layer of the tiny network is large enough, and no examples are kept."""
    monkeypatch.setattr(quantise_module, "SMALL", 0)
    monkeypatch.setenv("SUPERSERVE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    """A model with test data that eager float32 gets right, none of it by chance."""
    supernet = small_supernet(2, TINY)
    images = pixels(6 * ROWS)
    logits = EagerEngine(supernet).run(LARGEST, [images])[0]
    first, second = np.sort(logits, axis=1)[:, :-3:-1].T
    sure = np.argsort(second - first)[:ROWS]
    test = (images[sure], logits[sure].argmax(1))
    return save_supernet(supernet, tmp_path_factory.mktemp("int8") / "tiny", test=test)


def operators(path: Path) -> list[str]:
    program = msgspec.json.decode((path / PROGRAM_FILE).read_bytes(), type=Program)
    return [step.operator for step in program.steps]


def integer_layers(path: Path) -> int:
    return sum(name.startswith("onednn.q") for name in operators(path))


def test_large_layers_are_of_integers_and_chained(folder: ModelFolder, tmp_path: Path) -> None:
    """Only the first layer and what is averaged on the way are rounded in steps of their own."""
    path = build_packed(folder, LARGEST, "int8", tmp_path / "packed").path
    names = operators(path)
    assert integer_layers(path) >= 6
    assert names.count("packed.quantise") <= 1 + names.count("aten.avg_pool2d.default")
    assert sum(name.startswith("mkldnn") for name in names) == 1
    module = PackedModule.load(path, SharedParts.of(folder, load_supernet_in(folder, "int8")))
    images, labels = folder.test_data()
    assert (module.run([torch.from_numpy(images)])[0].numpy().argmax(1) == labels).mean() >= 0.98


@pytest.mark.slow
def test_more_layers_stay_float32_until_it_is_accurate(
    folder: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    def passes(_check: object, path: Path) -> None:
        tried.append(integer_layers(path))
        if len(tried) < 3:
            raise ModelFolderError("not yet")

    monkeypatch.setattr(build_module._Check, "passes", passes)
    path = build_packed(folder, LARGEST, "int8", tmp_path / "packed").path
    assert tried[0] > tried[1] > tried[2] > 0
    assert integer_layers(path) == tried[2]


def test_what_loses_too_much_is_refused_and_nothing_is_left(
    folder: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def coarse(low: float, high: float) -> Affine:
        return Affine(64 * affine_of(low, high).scale, 0)

    monkeypatch.setattr(ranges_module, "affine_of", coarse)
    monkeypatch.setattr(build_module, "_PARTS_LEFT", (0.0,))
    with pytest.raises(ModelFolderError, match=r"\(int8\) (differs|loses) .*not used"):
        build_packed(folder, LARGEST, "int8", tmp_path / "packed")
    assert list(tmp_path.glob("*packed*")) == []


def test_without_examples_nothing_is_fitted(folder: ModelFolder, tmp_path: Path) -> None:
    bare = save_supernet(load_supernet(folder), tmp_path / "bare")
    with pytest.raises(ModelFolderError, match=r"this model carries none: give some with .* --data PATH"):
        build_packed(bare, LARGEST, "int8", tmp_path / "packed")
    inputs, labels = folder.test_data()
    keep_examples(
        bare, inputs, (labels + 1) % 5
    )  # all wrong in float32, too: as many right answers is all that is asked
    build_packed(bare, LARGEST, "int8", tmp_path / "packed")


def test_the_layers_that_lose_most_are_left_first() -> None:
    ranges = Ranges({}, {"a": 0.1, "b": 0.4, "c": 0.2, "d": 0.3})
    assert [ranges.noisiest(part) for part in (0.0, 0.25, 0.5)] == [frozenset(), {"b"}, {"b", "d"}]
