"""Sizes of DynaBERT; its arithmetic is compared with pruned BERT in tests/models."""

import pytest
import torch

from superserve.errors import ConfigError, IllegalSubnetError
from superserve.supernet.actuator import apply, bind
from superserve.supernet.macs import count_macs
from superserve.supernet.zoo import build_network
from superserve.supernet.zoo.dynabert import DynaBert, DynaBertConfig

with torch.device("meta"):
    NETWORK = DynaBert(DynaBertConfig(classes=3))


def test_multiply_accumulates_are_berts() -> None:
    """11.17 G at 128 tokens, an eighth of that (and the pooler) for the smallest."""
    tokens = torch.zeros(1, 128, dtype=torch.int64, device="meta")
    largest, smallest = (
        count_macs(NETWORK, spec, (tokens, tokens)) for spec in (NETWORK.space.largest(), NETWORK.space.smallest())
    )
    assert largest / 1e9 == pytest.approx(11.17, abs=0.01)
    assert largest / smallest == pytest.approx(8, abs=0.01)


@pytest.mark.parametrize(
    ("depth", "kept"),
    [(0.5, (0, 2, 4, 6, 8, 10)), (0.75, (0, 1, 2, 4, 5, 6, 8, 9, 10)), (1.0, tuple(range(12)))],
)
def test_layers_are_kept_spread(depth: float, kept: tuple[int, ...]) -> None:
    assert NETWORK.dynabert_spec(depth, 1.0).keep == (kept,)


def test_heads_and_neurons_are_sliced_and_nothing_else() -> None:
    slices = NETWORK.geometry(NETWORK.dynabert_spec(0.5, 0.75)).slices
    assert slices["bert.encoder.layer.2.attention.self.key"] == (576, 768)
    assert slices["bert.encoder.layer.2.attention.output.dense"] == (768, 576)
    assert slices["bert.encoder.layer.2.intermediate.dense"] == (2304, 768)
    assert slices["bert.encoder.layer.2.output.dense"] == (768, 2304)
    assert len(slices) == 6 * 6
    assert not NETWORK.geometry(NETWORK.space.largest()).channels


def test_heads_are_rounded_to_the_even_half() -> None:
    """Python's rounding, which the training code uses: 2.5 heads of 10 are 2, 7.5 are 8."""
    with torch.device("meta"):
        network = DynaBert(DynaBertConfig(classes=2, hidden=640, heads=10, neurons=100, layers=4))
    sizes = {ratio: network.geometry(network.dynabert_spec(1.0, ratio)).slices for ratio in network.config.width_ratios}
    assert [sizes[ratio]["bert.encoder.layer.0.attention.self.query"][0] for ratio in sizes] == [128, 320, 512, 640]
    assert [sizes[ratio]["bert.encoder.layer.0.intermediate.dense"][0] for ratio in sizes] == [20, 50, 80, 100]


def test_padding_changes_nothing() -> None:
    network = DynaBert(DynaBertConfig(classes=2, vocabulary=50, hidden=16, heads=4, neurons=32, layers=4)).eval()
    apply(bind(network, network.space.smallest(), {}))
    text = torch.tensor([[5, 6, 7]])
    padded, mask = torch.tensor([[5, 6, 7, 9, 9]]), torch.tensor([[1, 1, 1, 0, 0]])
    torch.testing.assert_close(network(padded, mask), network(text, torch.ones_like(text)))
    assert network(padded, torch.zeros_like(mask)).isfinite().all()


@pytest.mark.parametrize(("depth", "width"), [(0.6, 1.0), (0.5, 0.3), (0.25, 1.0)])
def test_what_is_not_in_the_space_is_refused(depth: float, width: float) -> None:
    with pytest.raises(IllegalSubnetError, match="is not one of"):
        NETWORK.dynabert_spec(depth, width)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 7}, "multiple of heads"),
        ({"layers": 6}, "whole numbers of 6 layers"),
        ({"width_ratios": [0.01, 1.0]}, "at least one of 12 heads"),
        ({"depth_ratios": [0.5]}, "to 1"),
        ({"activation": "swish"}, "activation"),
        ({"vocabulary": 0}, "positive"),
    ],
)
def test_impossible_architectures_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_network("dynabert", {"classes": 3} | change)
