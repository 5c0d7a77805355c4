import dataclasses
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from superserve.errors import ModelFolderError
from superserve.model_folder import (
    CONFIG_FILE,
    FRONT_FILE,
    NORMS_FILE,
    WEIGHTS_FILE,
    ModelFolder,
    write_json,
)
from superserve.supernet.engine import EagerEngine
from superserve.supernet.hub import load_supernet, save_supernet
from superserve.supernet.network import Supernet
from support.supernets import pixels, small_network


def test_a_loaded_folder_computes_the_same(supernet: Supernet, folder: ModelFolder) -> None:
    before, after, images = EagerEngine(supernet), EagerEngine.load(folder), pixels(3)
    for index in range(3):
        assert np.array_equal(before.run(index, [images])[0], after.run(index, [images])[0])


def test_saving_again_writes_the_same_bytes(folder: ModelFolder, tmp_path: Path) -> None:
    again = save_supernet(load_supernet(folder), tmp_path / "again")
    assert again.model_hash == folder.model_hash


def test_saving_over_a_folder_replaces_it(supernet: Supernet, folder: ModelFolder) -> None:
    again = save_supernet(supernet, folder.path, test=(pixels(2), np.array([0, 1])))
    assert load_supernet(again).front == supernet.front
    assert again.test_data()[0].shape == (2, 9, 9, 2)


def test_saving_over_a_served_folder_leaves_the_server_alone(supernet: Supernet, folder: ModelFolder) -> None:
    """It has the old files mapped: written in place they would change under it."""
    engine, images = EagerEngine.load(folder), pixels(2)
    before = engine.run(1, [images])[0].copy()
    network = small_network(seed=1)
    save_supernet(dataclasses.replace(supernet, network=network), folder.path)
    assert np.array_equal(engine.run(1, [images])[0], before)
    assert not np.array_equal(EagerEngine.load(ModelFolder(folder.path)).run(1, [images])[0], before)


def test_files_are_as_readable_as_any(folder: ModelFolder) -> None:
    """Safetensors' own writer makes files that only their owner can read."""
    modes = {path.stat().st_mode for path in folder.path.iterdir()}
    assert len(modes) == 1


def test_loaded_weights_lie_in_the_mapped_file(folder: ModelFolder) -> None:
    """Not in private memory: the address of every weight falls into a mapping of the file."""
    network = load_supernet(folder).network
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("needs /proc")
    ranges = [line.split()[0] for line in maps.read_text().splitlines() if line.endswith(str(folder.weights_path))]
    mapped = [range(*(int(end, 16) for end in one.split("-"))) for one in ranges]
    assert all(any(tensor.data_ptr() in one for one in mapped) for tensor in network.state_dict().values())


def test_loaded_weights_take_no_gradient(folder: ModelFolder) -> None:
    assert not any(parameter.requires_grad for parameter in load_supernet(folder).network.parameters())


def edit_tensors(name: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        tensors = {key: tensor.clone() for key, tensor in load_file(path / name).items()}
        change(tensors)
        save_file(tensors, path / name, metadata(path / name))

    return spoil


def metadata(path: Path) -> dict[str, str]:
    header = path.read_bytes()[8 : 8 + int.from_bytes(path.read_bytes()[:8], "little")]
    found: dict[str, str] = msgspec.json.decode(header).get("__metadata__", {})
    return found


def edit_json(name: str, change: Callable[[dict[str, object]], object]) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        content = msgspec.json.decode((path / name).read_bytes())
        change(content)
        (path / name).write_bytes(msgspec.json.encode(content))

    return spoil


def overwrite(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        (path / name).write_bytes(change((path / name).read_bytes()))

    return spoil


def truncate(name: str) -> Callable[[Path], None]:
    return overwrite(name, lambda content: content[:-100])


def remove(name: str) -> Callable[[Path], None]:
    return lambda path: (path / name).unlink()


def reseed(path: Path) -> None:
    """Other weights of the right shapes, as after training on with the old statistics kept."""
    edit_tensors(WEIGHTS_FILE, lambda tensors: tensors["classifier.bias"].add_(1))(path)


def other_subnet(path: Path) -> None:
    """A front edited by hand: subnet s1 becomes the space's smallest."""
    folder = ModelFolder(path)
    first, second, third = folder.front.subnets
    changed = msgspec.structs.replace(second, spec=first.spec)
    write_json(path / FRONT_FILE, msgspec.structs.replace(folder.front, subnets=(first, changed, third)))


BAD = {
    "no config": (remove(CONFIG_FILE), CONFIG_FILE, "missing"),
    "no weights": (remove(WEIGHTS_FILE), WEIGHTS_FILE, "missing"),
    "no norms": (remove(NORMS_FILE), NORMS_FILE, "missing"),
    "no front": (remove(FRONT_FILE), FRONT_FILE, "missing"),
    "truncated weights": (truncate(WEIGHTS_FILE), WEIGHTS_FILE, "not a readable safetensors file"),
    "truncated norms": (truncate(NORMS_FILE), NORMS_FILE, "not a readable safetensors file"),
    "text for weights": (
        overwrite(WEIGHTS_FILE, lambda _content: b"version https://git-lfs.github.com/spec/v1"),
        WEIGHTS_FILE,
        "not a readable safetensors file",
    ),
    "wrong shape": (
        edit_tensors(WEIGHTS_FILE, lambda tensors: tensors.update({"stem.weight": torch.zeros(8, 2, 5, 5)})),
        WEIGHTS_FILE,
        r"'stem.weight' is torch.float32 \(8, 2, 5, 5\).*\(8, 2, 3, 3\)",
    ),
    "wrong dtype": (
        edit_tensors(WEIGHTS_FILE, lambda tensors: tensors.update({"stem.weight": tensors["stem.weight"].half()})),
        WEIGHTS_FILE,
        "'stem.weight' is torch.float16",
    ),
    "missing weight": (
        edit_tensors(WEIGHTS_FILE, lambda tensors: tensors.pop("classifier.bias")),
        WEIGHTS_FILE,
        "'classifier.bias' is missing",
    ),
    "unknown weight": (
        edit_tensors(WEIGHTS_FILE, lambda tensors: tensors.update({"head.bias": torch.zeros(1)})),
        WEIGHTS_FILE,
        "'head.bias' .* no place",
    ),
    "statistics of other weights": (reseed, NORMS_FILE, "calibrate again"),
    "statistics of another subnet": (other_subnet, NORMS_FILE, "'s1'.*calibrate again"),
    "unknown config key": (edit_json(CONFIG_FILE, lambda c: c.update(flavour="mint")), CONFIG_FILE, "flavour"),
    "unknown architecture key": (
        edit_json(CONFIG_FILE, lambda c: c["architecture"].update(dropout=0.1)),  # type: ignore[attr-defined]
        CONFIG_FILE,
        "dropout",
    ),
    "unknown family": (edit_json(CONFIG_FILE, lambda c: c.update(family="vgg")), CONFIG_FILE, "ofa_resnet"),
    "unknown preprocessing key": (
        edit_json(CONFIG_FILE, lambda c: c["preprocessing"].update(crop=1)),  # type: ignore[attr-defined]
        CONFIG_FILE,
        "crop",
    ),
    "texts of no length": (
        edit_json(CONFIG_FILE, lambda c: c["inputs"][0].update(datatype="BYTES")),  # type: ignore[index]
        CONFIG_FILE,
        "max_bytes must be 1 to",
    ),
    "numbers of a length": (
        edit_json(CONFIG_FILE, lambda c: c["inputs"][0].update(max_bytes=8)),  # type: ignore[index]
        CONFIG_FILE,
        "max_bytes must be 0 to 0 for UINT8",
    ),
    "a range of an input that has none": (
        edit_json(CONFIG_FILE, lambda c: c["inputs"][0].update(range=[5, 4])),  # type: ignore[index]
        CONFIG_FILE,
        r"'image': range \[5, 4\] must rise",
    ),
    "another architecture": (
        edit_json(CONFIG_FILE, lambda c: c["architecture"].update(stem_width=12)),  # type: ignore[attr-defined]
        WEIGHTS_FILE,
        "'stem.weight'",
    ),
    "subnet outside the space": (
        edit_json(FRONT_FILE, lambda c: c["subnets"][0]["spec"]["widths"][0].__setitem__(1, 0.3)),  # type: ignore[index]
        FRONT_FILE,
        "'s0'.*'stem' = 0.3 is not one of",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_folders_are_refused_by_file(folder: ModelFolder, case: str) -> None:
    spoil, file, message = BAD[case]
    spoil(folder.path)
    with pytest.raises(ModelFolderError, match=f"{file}.*{message}"):
        load_supernet(ModelFolder(folder.path))
