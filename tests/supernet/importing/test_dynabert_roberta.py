"""From checkpoints in RoBERTa's layout to model folders."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor

from superserve.errors import CheckpointError, ConfigError
from superserve.model_folder import ModelFolder
from superserve.supernet.hub import load_supernet
from superserve.supernet.importing import Serving, Source, import_model
from superserve.supernet.importing.checkpoint import Picker
from superserve.supernet.importing.dynabert_roberta import DynaRobertaImporter
from superserve.supernet.zoo.dynabert_roberta import DynaRoberta
from support.checkpoints import ROBERTA, ROBERTA_SETTINGS, bert_state, roberta_state, texts


def _import_roberta(
    tmp_path: Path, state: dict[str, Tensor], *, family: str = "dynabert_roberta", tokens: int = 8
) -> Any:
    folder = tmp_path / "roberta"
    folder.mkdir(exist_ok=True)
    torch.save(state, folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(ROBERTA_SETTINGS))
    return import_model(
        family,
        Source(folder=folder),
        tmp_path / "out",
        data=texts(tmp_path / "data.npz", types=False),
        serving=Serving(name="m", tokens=tokens),
    )


def test_a_roberta_folder_becomes_a_model(tmp_path: Path) -> None:
    """Segments are not asked for, though MNLI is about pairs; what pretraining and old versions leave is left out."""
    unused = {"roberta.pooler.dense.bias": torch.ones(24), "lm_head.bias": torch.ones(40)}
    report = _import_roberta(tmp_path, roberta_state() | unused)
    assert report.ignored == tuple(sorted(unused))
    folder = ModelFolder(tmp_path / "out")
    assert [(tensor.name, tensor.range) for tensor in folder.config.inputs] == [
        ("input_ids", (0, 39)),
        ("attention_mask", (0, 1)),
    ]
    loaded = load_supernet(folder).network
    assert isinstance(loaded, DynaRoberta)
    assert loaded.config == ROBERTA
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in roberta_state().items())


def test_the_padding_token_of_a_roberta_is_the_checkpoints(tmp_path: Path) -> None:
    """Positions are counted from it on, so that texts are as much shorter as its number is larger."""
    picker = Picker(roberta_state(), tmp_path, ROBERTA_SETTINGS | {"pad_token_id": 4})
    architecture = DynaRobertaImporter().architecture(picker)
    assert (architecture.padding_token, architecture.positions) == (4, 11)


def test_settings_of_another_kind_are_named(tmp_path: Path) -> None:
    picker = Picker(roberta_state(), tmp_path, ROBERTA_SETTINGS | {"pad_token_id": "<pad>"})
    with pytest.raises(CheckpointError, match=r"config.json of the checkpoint: .*padding_token"):
        DynaRobertaImporter().architecture(picker)


def test_without_settings_shapes_and_roberta_base_tell_the_rest(tmp_path: Path) -> None:
    """All heads of RoBERTa are 64 wide."""
    wide = msgspec.structs.replace(ROBERTA, hidden=256, heads=4)
    architecture = DynaRobertaImporter().architecture(Picker(roberta_state(wide), tmp_path, {}))
    assert (architecture.heads, architecture.layers, architecture.norm_eps, architecture.positions) == (4, 4, 1e-5, 14)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classifier.out_proj.bias": None}, "'classifier.out_proj.bias' is missing: the encoder alone, which has to"),
        ({"classifier.dense.weight": None}, r"'classifier.dense.weight' is missing$"),
        ({"classifier.dense.weight": torch.ones(24, 23)}, r"'classifier.dense.weight' is .*not float \(24, 24\)"),
        ({"roberta.embeddings.position_embeddings.weight": torch.ones(2, 24)}, "every size must be positive"),
        ({"distillation.weight": torch.ones(1)}, "'distillation.weight' .*has no place in this family's network$"),
    ],
)
def test_unfit_roberta_checkpoints_are_named(tmp_path: Path, change: dict[str, Tensor | None], message: str) -> None:
    state = {name: tensor for name, tensor in (roberta_state() | change).items() if tensor is not None}
    with pytest.raises(CheckpointError, match=message):
        _import_roberta(tmp_path, state)


def test_bert_and_roberta_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"looks like one of family 'dynabert'$"):
        _import_roberta(tmp_path, bert_state())
    with pytest.raises(CheckpointError, match=r"looks like one of family 'dynabert_roberta'$"):
        _import_roberta(tmp_path, roberta_state(), family="dynabert")


def test_a_text_is_no_longer_than_the_positions_of_a_roberta(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tokens 15 is more than the 14"):
        _import_roberta(tmp_path, roberta_state(), tokens=15)
