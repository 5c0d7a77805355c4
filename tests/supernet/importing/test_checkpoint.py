"""Checkpoint files, good and bad."""

import pickle
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from superserve.errors import CheckpointError
from superserve.supernet.importing import FAMILIES
from superserve.supernet.importing.checkpoint import Picker, open_checkpoint, read_checkpoint, recognise
from superserve.supernet.zoo.autoformer import AutoFormerConfig
from superserve.supernet.zoo.dynabert import DynaBertConfig
from superserve.supernet.zoo.dynabert_roberta import DynaRobertaConfig
from superserve.supernet.zoo.ofa_mobilenet import OfaMobileNetV3Config
from superserve.supernet.zoo.ofa_proxyless import OfaProxylessConfig
from superserve.supernet.zoo.ofa_resnet50 import OfaResNet50Config

#: One of each family: what matters here are the names of its tensors.
ARCHITECTURES: dict[str, Any] = {
    "ofa_resnet50": OfaResNet50Config(),
    "ofa_mobilenet_v3": OfaMobileNetV3Config(),
    "ofa_proxyless": OfaProxylessConfig(),
    "dynabert": DynaBertConfig(classes=2),
    "dynabert_roberta": DynaRobertaConfig(classes=2),
    "autoformer": AutoFormerConfig(),
}


class Bomb:
    """What a malicious checkpoint may hold: unpickling it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.write_text, (self.path, "executed")


@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"state_dict": state, "epoch": 7, "best": 0.5}])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_reads_tensors_by_name(tmp_path: Path, wrap: Callable[[Any], Any], prefix: str) -> None:
    torch.save(wrap({f"{prefix}a.weight": torch.ones(2), f"{prefix}b": torch.zeros(3)}), tmp_path / "net.pth")
    found = read_checkpoint(tmp_path / "net.pth")
    assert {name: tensor.tolist() for name, tensor in found.items()} == {"a.weight": [1, 1], "b": [0, 0, 0]}


def test_reads_the_old_format_of_torch(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "net", _use_new_zipfile_serialization=False)
    assert read_checkpoint(tmp_path / "net")["a"].tolist() == [1, 1]


def test_reads_safetensors(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "net.safetensors")
    assert read_checkpoint(tmp_path / "net.safetensors")["a"].tolist() == [1, 1]


def test_runs_no_code(tmp_path: Path) -> None:
    evidence = tmp_path / "evidence"
    torch.save({"a": torch.ones(2), "extra": Bomb(evidence)}, tmp_path / "zip.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Bomb(evidence)))
    for name in ("zip.pth", "plain.pth"):
        with pytest.raises(CheckpointError, match=rf"{name}: holds pickled Python objects.*never done"):
            read_checkpoint(tmp_path / name)
    assert not evidence.exists()


def test_reads_the_command_line_that_training_scripts_store(tmp_path: Path) -> None:
    torch.save({"model": {"a": torch.ones(2)}, "args": Namespace(gp=True, lr=0.1)}, tmp_path / "net.pth")
    found = open_checkpoint(tmp_path / "net.pth")
    assert (found.tensors["a"].tolist(), found.arguments) == ([1, 1], {"gp": True, "lr": 0.1})


def test_runs_no_code_of_a_command_line(tmp_path: Path) -> None:
    evidence = tmp_path / "evidence"
    torch.save({"model": {"a": torch.ones(2)}, "args": Namespace(bomb=Bomb(evidence))}, tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match="holds pickled Python objects"):
        open_checkpoint(tmp_path / "net.pth")
    assert not evidence.exists()


@pytest.mark.parametrize("name", ["net.pth", "net.safetensors", "old.pth"])
@pytest.mark.parametrize("keep", [0, 10, 200, 4000])
def test_truncated_files_are_named(tmp_path: Path, name: str, keep: int) -> None:
    tensors = {"a": torch.ones(2000)}
    if name.endswith(".safetensors"):
        save_file(tensors, tmp_path / name)
    else:
        torch.save(tensors, tmp_path / name, _use_new_zipfile_serialization=name != "old.pth")
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[:keep])
    with pytest.raises(CheckpointError, match=rf"{name}: truncated, or not"):
        read_checkpoint(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "message"),
    [([torch.ones(2)], "holds a list"), ({}, "no tensors"), ({"epoch": 3}, "no tensors"), (torch.ones(2), "a Tensor")],
)
def test_files_of_something_else_are_named(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(tmp_path / "net.pth")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        read_checkpoint(tmp_path / "net.pth")


def _picker(**tensors: Tensor) -> Picker:
    return Picker(tensors, Path("net.pth"), {})


def test_takes_tensors_by_any_of_their_names() -> None:
    picker = _picker(new=torch.ones(2, dtype=torch.float64), old=torch.zeros(3).half(), stale=torch.ones(1))
    assert picker.take(("new", "newer"), (2,)).dtype == torch.float32
    assert picker.take(("renamed", "old"), (3,)).tolist() == [0, 0, 0]
    picker.finish(("stale",))
    assert (picker.renamed, picker.ignored) == (1, ("stale",))


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.ones(3), r"'a' is torch.float32 \(3,\), not float \(2,\)"),
        (torch.ones(2, dtype=torch.int64), "is torch.int64"),
        (torch.tensor([1.0, torch.nan]), "not finite"),
    ],
)
def test_unfit_tensors_are_named(tensor: Tensor, message: str) -> None:
    with pytest.raises(CheckpointError, match=rf"net.pth: tensor .*{message}"):
        _picker(a=tensor).take(("a",), (2,))


def test_missing_and_superfluous_tensors_are_named() -> None:
    picker = _picker(**{"first_conv.conv.weight": torch.ones(1)})
    with pytest.raises(CheckpointError, match=r"'a' is missing: the file looks like one of family 'ofa_mobilenet_v3'"):
        picker.take(("a", "b"), (1,))
    with pytest.raises(CheckpointError, match=r"'first_conv.conv.weight' \(and 0 more\) has no place"):
        picker.finish((".running_mean",))


def test_a_file_is_not_said_to_look_like_one_of_its_own_family() -> None:
    picker = _picker(**{"encoder.layer.0.output.dense.weight": torch.ones(1)})
    picker.family = "dynabert"
    with pytest.raises(CheckpointError, match=r"'a' is missing$"):
        picker.take(("a",), (1,))
    with pytest.raises(CheckpointError, match=r"'a' is missing: half a network$"):
        picker.shape(("a",), 1, fix="half a network")
    picker.family = "ofa_resnet50"
    with pytest.raises(CheckpointError, match=r"'a' is missing: the file looks like one of family 'dynabert'$"):
        picker.shape(("a",), 1, fix="half a network")


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_recognises_its_own_names(family: str) -> None:
    """Of a network of published size: whatever else a name may point to, its own family comes first."""
    importer = FAMILIES[family]
    with torch.device("meta"):
        network = importer.network(ARCHITECTURES[family])
    names = [next(iter(theirs)) for _, theirs in importer.names(network)]
    assert recognise(dict.fromkeys(names)) == family


def test_recognises_no_family_in_other_names() -> None:
    assert recognise({"layer1.0.conv1.weight": None}) is None
