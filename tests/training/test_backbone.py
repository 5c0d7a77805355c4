"""Heads and neurons in the order of what they do to the loss; BERT folders read, and refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from superserve.errors import CheckpointError, ConfigError
from superserve.supernet.actuator import apply, bind
from superserve.supernet.zoo.dynabert import DynaBert
from superserve.training.backbone import importances, read_backbone, rewire, rewired
from superserve.training.sandwich import run
from support.bert_folder import PIECES, SIZES, random_bert, untrained_bert, write_bert
from support.checkpoints import roberta_state

LAYERS = [f"bert.encoder.layer.{number}" for number in range(4)]


def batches() -> list[tuple[tuple[Tensor, ...], Tensor]]:
    generator = torch.Generator().manual_seed(1)
    numbers = torch.randint(4, len(PIECES), (2, 6, 7), generator=generator)
    return [((part, torch.ones_like(part)), torch.randint(0, 2, (6,), generator=generator)) for part in numbers]


def logits(network: DynaBert, *, width: float = 1.0) -> Tensor:
    apply(bind(network, network.dynabert_spec(1.0, width), None))
    with torch.no_grad():
        return run(network, batches()[0][0])


def test_importance_is_the_slope_of_the_loss_by_a_factor_in_front_of_each_unit() -> None:
    """Against differences: each unit's output weights scaled a little up and down."""
    network = random_bert().double()
    found = importances(network, batches()[:1])
    ((numbers, labels),) = batches()[:1]

    def loss() -> float:
        with torch.no_grad():
            return float(functional.cross_entropy(network(*numbers), labels))

    for place, name, units in ((0, "attention.output.dense", 4), (1, "output.dense", 24)):
        weight = network.get_parameter(f"{LAYERS[2]}.{name}.weight").data
        per_unit = weight.size(1) // units
        for unit in range(0, units, 3):
            columns = weight[:, unit * per_unit : (unit + 1) * per_unit]
            kept, step = columns.clone(), 1e-4
            columns.copy_(kept * (1 + step))
            above = loss()
            columns.copy_(kept * (1 - step))
            slope = abs(above - loss()) / (2 * step)
            columns.copy_(kept)
            assert float(found[LAYERS[2]][place][unit]) == pytest.approx(slope, rel=1e-3, abs=1e-7)


def test_importances_add_up_over_batches() -> None:
    one, other, both = (importances(random_bert(), part) for part in (batches()[:1], batches()[1:], batches()))
    for layer, (heads, neurons) in both.items():
        torch.testing.assert_close(heads, one[layer][0] + other[layer][0])
        torch.testing.assert_close(neurons, one[layer][1] + other[layer][1])


def test_rewiring_keeps_the_function_and_puts_what_matters_first() -> None:
    network = random_bert()
    before = logits(network)
    rewire(network, importances(network, batches()))
    torch.testing.assert_close(logits(network), before, rtol=0, atol=1e-5)
    for heads, neurons in importances(network, batches()).values():
        for units in (heads, neurons):
            assert torch.all(units[:-1] >= units[1:] - 1e-5)


def test_a_narrow_subnet_keeps_the_heads_that_lead() -> None:
    """All but one head made useless: the narrowest subnet is that head, wherever it stood."""
    network = random_bert()
    for layer in LAYERS:
        network.get_parameter(f"{layer}.attention.output.dense.weight").data[:, 4:] = 0
        network.get_parameter(f"{layer}.output.dense.weight").data[:, 6:] = 0
    found = {layer: (torch.tensor([4.0, 3, 2, 1]), torch.arange(24.0, 0, -1)) for layer in LAYERS}
    moved = {layer: (heads.flip(0), neurons.flip(0)) for layer, (heads, neurons) in found.items()}
    rewire(network, moved)  # the useful ones are last now
    assert not torch.allclose(logits(network, width=0.25), logits(network), atol=1e-3)
    rewire(network, importances(network, batches()))
    torch.testing.assert_close(logits(network, width=0.25), logits(network), rtol=0, atol=1e-5)


def test_rewired_weights_are_a_function_of_the_weights() -> None:
    state = random_bert().state_dict()
    one, again = (rewired(SIZES, state, batches()) for _ in range(2))
    assert all(torch.equal(tensor, again[name]) for name, tensor in one.items())
    assert not torch.equal(one[f"{LAYERS[0]}.output.dense.weight"], state[f"{LAYERS[0]}.output.dense.weight"])


def test_reads_the_encoder_and_makes_a_new_classifier(tmp_path: Path) -> None:
    write_bert(tmp_path)
    backbone, again, other = (read_backbone(tmp_path, 5, seed) for seed in (0, 0, 1))
    assert backbone.pieces == PIECES
    assert (backbone.architecture.classes, backbone.architecture.layers) == (5, 4)
    assert backbone.weights["classifier.weight"].shape == (5, 16)
    assert torch.equal(backbone.weights["classifier.weight"], again.weights["classifier.weight"])
    assert not torch.equal(backbone.weights["classifier.weight"], other.weights["classifier.weight"])
    name = f"{LAYERS[3]}.attention.self.key.weight"
    assert torch.equal(backbone.weights[name], untrained_bert().state_dict()[name])


def test_folders_that_are_no_bert_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"--backbone .*holds none of model.safetensors"):
        read_backbone(tmp_path, 2, 0)
    write_bert(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"d_model": 16}))
    with pytest.raises(CheckpointError, match="says no hidden_size"):
        read_backbone(tmp_path, 2, 0)
    save_file(roberta_state(), tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"a RoBERTa, whose byte-level BPE .*: give a BERT"):
        read_backbone(tmp_path, 2, 0)


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        (PIECES[1:], r"lack \[PAD\]"),
        ((PIECES[1], PIECES[0], *PIECES[2:]), r"\[PAD\] must stand first"),
        ((*PIECES, "more"), "for a network that knows 24"),
        ((*PIECES[:-1], "two words"), "none may hold a space"),
    ],
)
def test_vocabularies_of_another_kind_are_refused(tmp_path: Path, pieces: tuple[str, ...], message: str) -> None:
    (write_bert(tmp_path) / "vocab.txt").write_text("\n".join(pieces))
    with pytest.raises(ConfigError, match=message):
        read_backbone(tmp_path, 2, 0)
