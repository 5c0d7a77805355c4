"""Positions and sizes of RoBERTa's layout; its arithmetic is compared with pruned RoBERTa in tests/models."""

import pytest
import torch
from torch import Tensor

from superserve.errors import ConfigError
from superserve.supernet.actuator import apply, bind
from superserve.supernet.zoo import build_network
from superserve.supernet.zoo.dynabert_roberta import DynaRoberta, DynaRobertaConfig

SMALL = DynaRobertaConfig(classes=2, vocabulary=50, hidden=16, heads=4, neurons=32, layers=4, positions=6)


@pytest.fixture
def network() -> DynaRoberta:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = DynaRoberta(SMALL).eval()
    apply(bind(made, made.space.smallest(), {}))
    return made


def test_defaults_are_roberta_bases() -> None:
    """124.6 million parameters, 514 positions of which texts use 512."""
    with torch.device("meta"):
        base = DynaRoberta(DynaRobertaConfig(classes=2))
    assert base.config.positions == 512
    assert base.roberta.embeddings.position_embeddings.weight.shape == (514, 768)
    assert sum(parameter.numel() for parameter in base.parameters()) / 1e6 == pytest.approx(124.6, abs=0.1)


def test_subnets_are_dynaberts() -> None:
    with torch.device("meta"):
        base = DynaRoberta(DynaRobertaConfig(classes=2))
    geometry = base.geometry(base.dynabert_spec(0.5, 0.75))
    assert geometry.keep == {"roberta.encoder.layer": (0, 2, 4, 6, 8, 10)}
    assert geometry.slices["roberta.encoder.layer.2.attention.self.key"] == (576, 768)
    assert geometry.slices["roberta.encoder.layer.2.output.dense"] == (768, 2304)
    assert len(geometry.slices) == 6 * 6


@pytest.mark.parametrize("padded", [[5, 6, 7, 1, 1], [1, 1, 5, 6, 7], [1, 5, 6, 7, 1]], ids=str)
def test_padding_changes_nothing_wherever_it_stands(network: DynaRoberta, padded: list[int]) -> None:
    """It has no position of its own, and the text behind it begins at the first one."""
    text = torch.tensor([[5, 6, 7]])
    embedded, row = _embed(network, text), torch.tensor([padded])
    torch.testing.assert_close(_embed(network, row)[:, row[0] != 1], embedded)
    if padded[0] != 1:  # the classifier reads the first token
        found = network(row, row.ne(1).long())
        torch.testing.assert_close(found, network(text, torch.ones_like(text)))


def _embed(network: DynaRoberta, tokens: Tensor) -> Tensor:
    found: Tensor = network.roberta.embeddings(tokens, torch.zeros_like(tokens))
    return found


def test_the_longest_text_takes_the_last_position(network: DynaRoberta) -> None:
    text = torch.full((1, 7), 9)
    assert _embed(network, text[:, :6]).isfinite().all()
    with pytest.raises(IndexError):
        _embed(network, text)


@pytest.mark.parametrize("token", [-1, 50])
def test_a_padding_token_outside_of_the_vocabulary_is_named(token: int) -> None:
    with pytest.raises(ConfigError, match=f"padding_token {token} must be below vocabulary 50"):
        build_network("dynabert_roberta", {"classes": 2, "vocabulary": 50, "padding_token": token})
