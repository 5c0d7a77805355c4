"""SubnetNorm statistics on disk: today's format and the first one, in single and half precision."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from superserve.errors import ModelFolderError
from superserve.model_folder import NORMS_FILE, ModelFolder
from superserve.supernet.calibrate import calibrate
from superserve.supernet.engine import EagerEngine
from superserve.supernet.hub import load_supernet, save_supernet
from superserve.supernet.network import Supernet
from superserve.supernet.norms_file import statistics_bytes
from superserve.supernet.operators import HalfStatistics, NormStatistics
from support.supernets import images, pixels, small_network, small_supernet


def contents(folder: ModelFolder) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(folder.norms_path, framework="pt") as file:
        metadata = dict(file.metadata())
    return {name: tensor.clone() for name, tensor in load_file(folder.norms_path).items()}, metadata


def rewrite(folder: ModelFolder, tensors: dict[str, Tensor], metadata: dict[str, str]) -> ModelFolder:
    save_file(tensors, folder.norms_path, metadata)
    return ModelFolder(folder.path)


def as_format_1(folder: ModelFolder) -> ModelFolder:
    """The folder as the first version of this package wrote it."""
    supernet = load_supernet(folder)
    origin = msgspec.json.decode(contents(folder)[1]["superserve"])
    old = {"weights_sha256": origin["weights_sha256"], "specs": origin["specs"]}
    tensors = {
        f"{subnet}/{name}/{part}": getattr(found, part).clone()
        for subnet, statistics in supernet.statistics.items()
        for name, found in statistics.items()
        for part in ("mean", "variance")
    }
    return rewrite(folder, tensors, {"superserve": msgspec.json.encode(old).decode()})


def calibrated(supernet: Supernet) -> Supernet:
    batches = [images(8, seed=1)]
    found = {r.id: calibrate(supernet.network, r.spec, batches) for r in supernet.front.subnets}
    return dataclasses.replace(supernet, statistics=found)


def test_the_first_format_is_still_read(supernet: Supernet, folder: ModelFolder) -> None:
    old = as_format_1(folder)
    assert any(name.endswith("/mean") for name in contents(old)[0])
    before, after = EagerEngine(supernet), EagerEngine.load(old)
    for index in range(3):
        assert np.array_equal(before.run(index, [pixels(3)])[0], after.run(index, [pixels(3)])[0])


def test_the_bundled_model_is_of_the_first_format() -> None:
    """So that the line above also holds for files that were really written by it."""
    tensors, metadata = contents(ModelFolder.resolve("digits"))
    assert "format" not in msgspec.json.decode(metadata["superserve"])
    assert not any(name == "index" for name in tensors)


def test_half_precision_changes_logits_little(supernet: Supernet, tmp_path: Path) -> None:
    supernet = calibrated(supernet)
    half = save_supernet(supernet, tmp_path / "half", half=True)
    groups = [tensor for name, tensor in contents(half)[0].items() if name != "index"]
    assert {group.dtype for group in groups} == {torch.float16}
    before, after = EagerEngine(supernet), EagerEngine.load(half)
    for index in range(3):
        expected, found = (engine.run(index, [pixels(16)])[0] for engine in (before, after))
        assert not np.array_equal(found, expected)
        assert np.abs(found - expected).max() < 0.01 * expected.std()


def test_half_precision_is_the_rounded_statistics(supernet: Supernet, tmp_path: Path) -> None:
    loaded = load_supernet(save_supernet(supernet, tmp_path / "half", half=True))
    for record in supernet.front.subnets:
        for name, found in supernet.statistics[record.id].items():
            stored = loaded.statistics[record.id][name]
            assert isinstance(stored, HalfStatistics)
            assert torch.equal(stored.mean, found.mean.half().float())
            assert torch.equal(stored.variance, found.variance.half().float())
            assert stored.single().mean.dtype == torch.float32
            assert stored.nbytes * 2 == found.nbytes


def test_half_precision_is_for_statistics_that_are_large_beside_the_weights(tmp_path: Path) -> None:
    few, many = save_supernet(small_supernet(3), tmp_path / "few"), save_supernet(small_supernet(40), tmp_path / "many")
    assert contents(few)[0]["stem_norm/8"].dtype == torch.float32
    assert contents(many)[0]["stem_norm/8"].dtype == torch.float16
    again = save_supernet(load_supernet(many), tmp_path / "again")
    assert again.model_hash == many.model_hash


@pytest.mark.parametrize(
    ("mean", "variance", "halved"),
    [
        (1.0, 1.0, True),
        (1e5, 1e12, False),  # beyond float16
        (100.03, 1e-3, False),  # many deviations away from zero: rounding would move every value
        (1e-9, 1e-12, True),  # a dead channel: the layer's epsilon stands above it
        (0.0, 3e-7, True),
    ],
)
def test_a_layer_is_halved_only_if_that_is_precise(
    supernet: Supernet, tmp_path: Path, mean: float, variance: float, halved: bool
) -> None:
    statistics = {key: dict(value) for key, value in supernet.statistics.items()}
    found = statistics["s1"]["stem_norm"]
    odd = NormStatistics(found.mean.clone(), found.variance.clone())
    odd.mean[-1], odd.variance[-1] = mean, variance
    statistics["s1"]["stem_norm"] = odd
    changed = dataclasses.replace(supernet, statistics=statistics)
    folder = save_supernet(changed, tmp_path / "odd", half=True)
    tensors, _ = contents(folder)
    width = len(found.mean)
    assert tensors[f"stem_norm/{width}"].dtype == (torch.float16 if halved else torch.float32)
    assert {tensor.dtype for name, tensor in tensors.items() if "/" in name and "stem_norm" not in name} == {
        torch.float16
    }
    loaded = load_supernet(folder).statistics["s1"]["stem_norm"]
    eps = 1e-5
    deviation = (odd.variance + eps).sqrt()
    assert ((loaded.mean - odd.mean).abs() / deviation).max() <= 2**-8
    assert (((loaded.variance + eps).sqrt() / deviation) - 1).abs().max() <= 2**-8


def test_sets_of_subnets_that_begin_alike_are_stored_once(tmp_path: Path) -> None:
    """Calibrated on the same data, layers before the first difference see the same: one set, one object in memory."""
    network = small_network()
    largest = network.space.largest()
    ratios = dict(largest.widths)
    ratios["stage1.block3"] = 0.25
    twin = network.space.spec((3, 4), ratios)
    model = small_supernet(3)
    specs = (model.front.subnets[0].spec, twin, largest)
    front = msgspec.structs.replace(
        model.front,
        subnets=tuple(msgspec.structs.replace(r, spec=s) for r, s in zip(model.front.subnets, specs, strict=True)),
    )
    supernet = calibrated(Supernet(model.config, front, network, {}))
    loaded = load_supernet(save_supernet(supernet, tmp_path / "twins")).statistics
    shared = [name for name in loaded["s1"] if loaded["s1"][name] is loaded["s2"][name]]
    differing = sorted(set(loaded["s2"]) - set(shared))
    assert differing == ["stages.1.3.norm1", "stages.1.3.norm2", "stages.1.3.norm3"], "what follows the difference"
    assert statistics_bytes(loaded) < statistics_bytes(supernet.statistics)
    for name, found in supernet.statistics["s1"].items():
        assert torch.equal(loaded["s1"][name].mean, found.mean)


def test_statistics_lie_in_the_mapped_file(supernet: Supernet, tmp_path: Path) -> None:
    """All workers of a machine share them, in either precision."""
    for half in (False, True):
        folder = save_supernet(supernet, tmp_path / str(half), half=half)
        loaded = load_supernet(folder)
        lines = Path("/proc/self/maps").read_text().splitlines()
        ranges = [line.split()[0].split("-") for line in lines if line.endswith(str(folder.norms_path))]
        mapped = [range(int(start, 16), int(end, 16)) for start, end in ranges]
        for statistics in loaded.statistics.values():
            for found in statistics.values():
                tensor = found.group if isinstance(found, HalfStatistics) else found.mean
                assert any(tensor.data_ptr() in one for one in mapped)


def drop(name: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: tensors.pop(name)


def put(name: str, tensor: Tensor) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: tensors.update({name: tensor})


BAD: dict[str, tuple[Callable[[dict[str, Tensor]], object], str]] = {
    "a group is missing": (drop("stem_norm/8"), "'stem_norm/8' is missing"),
    "the index is missing": (drop("index"), "'index' is missing"),
    "a group of another width": (put("stem_norm/8", torch.ones(3, 2, 7)), r"'stem_norm/8' is .*\(3, 2, 7\).*2, 8"),
    "a group of another type": (put("stem_norm/8", torch.ones(3, 2, 8).double()), "'stem_norm/8' is torch.float64"),
    "a group of one set too few": (put("stem_norm/8", torch.ones(0, 2, 8)), "'s1' has no statistics of 'stem_norm'"),
    "a group that no layer has": (put("tail_norm/8", torch.ones(1, 2, 8)), "'tail_norm/8' has no place"),
    "an index of another shape": (put("index", torch.zeros(2, 2, dtype=torch.int32)), r"'index' is .*\(2, 2\)"),
    "an index of another type": (put("index", torch.zeros(3, 2)), "'index' is torch.float32"),
    "an index that points nowhere": (lambda tensors: tensors["index"].fill_(99), "has no statistics of"),
    "an index that leaves out what runs": (lambda tensors: tensors["index"].fill_(-1), "has no statistics of"),
}


@pytest.mark.parametrize("case", BAD)
def test_files_that_do_not_fit_are_refused(folder: ModelFolder, case: str) -> None:
    spoil, message = BAD[case]
    tensors, metadata = contents(folder)
    spoil(tensors)
    with pytest.raises(ModelFolderError, match=f"{NORMS_FILE}.*{message}"):
        load_supernet(rewrite(folder, tensors, metadata))


OLD_BAD: dict[str, tuple[Callable[[dict[str, Tensor]], object], str]] = {
    "missing": (drop("s1/stem_norm/mean"), "'s1/stem_norm/mean' is missing"),
    "of another size": (put("s2/stem_norm/variance", torch.ones(3)), "'s2/stem_norm/variance' is"),
    "unknown": (put("s9/stem_norm/variance", torch.ones(3)), "'s9/stem_norm/variance' .* no place"),
}


@pytest.mark.parametrize("case", OLD_BAD)
def test_files_of_the_first_format_that_do_not_fit_are_refused(folder: ModelFolder, case: str) -> None:
    spoil, message = OLD_BAD[case]
    tensors, metadata = contents(as_format_1(folder))
    spoil(tensors)
    with pytest.raises(ModelFolderError, match=f"{NORMS_FILE}.*{message}"):
        load_supernet(rewrite(folder, tensors, metadata))


def test_a_later_format_is_refused(folder: ModelFolder) -> None:
    tensors, metadata = contents(folder)
    origin = msgspec.json.decode(metadata["superserve"]) | {"format": 3}
    later = rewrite(folder, tensors, {"superserve": msgspec.json.encode(origin).decode()})
    with pytest.raises(ModelFolderError, match="format 3 is not 1 or 2"):
        load_supernet(later)


def test_halved_statistics_serve_converted_models_too() -> None:
    """A normalisation with a forward of its own reads them as its running statistics."""
    from superserve.supernet.conversion.operators import adopt_norm  # noqa: PLC0415 (beside what it is about)

    class Loud(nn.BatchNorm2d):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    layer = Loud(6).eval()
    nn.init.uniform_(layer.weight)
    group = torch.rand(3, 2, 4).half()
    half = HalfStatistics(group, 1)
    adopt_norm(layer)
    x = torch.randn(2, 4, 3, 3)
    layer.slot.value = layer.bind(4, half)  # type: ignore[operator, union-attr]
    found = layer(x)
    layer.slot.value = layer.bind(4, half.single())  # type: ignore[operator, union-attr]
    assert torch.equal(found, layer(x))
    assert torch.equal(found, layer.extract(4, half)(x))  # type: ignore[operator]
