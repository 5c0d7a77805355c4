"""AutoFormer against its definition, written out once more in tests/support/autoformer.py; published sizes."""

import copy
from functools import cache
from pathlib import Path

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from torch import Tensor

from superserve.errors import ConfigError, IllegalSubnetError
from superserve.subnet import SubnetSpec
from superserve.supernet.actuator import apply, bind
from superserve.supernet.extract import extract
from superserve.supernet.importing.autoformer import AutoFormerImporter
from superserve.supernet.importing.checkpoint import Picker
from superserve.supernet.macs import count_macs
from superserve.supernet.zoo import build_network
from superserve.supernet.zoo.autoformer import AutoFormer, AutoFormerConfig, Projection
from support.autoformer import SETTINGS, Options, Sample, Sizes, autoformer_forward, autoformer_state
from support.sizes import parameters
from support.supernets import specs

SIZES = Sizes()
OPTIONS = st.builds(Options, *(st.booleans() for _ in Options._fields))


@cache
def _double_state(options: Options) -> dict[str, Tensor]:
    return {name: tensor.double() for name, tensor in autoformer_state(SIZES, options).items()}


@cache
def _network(options: Options) -> AutoFormer:
    """The network that comes of such a checkpoint, in double precision: what is compared is not rounding."""
    space = SETTINGS["search_space"] | ({} if options.change_qkv else {"num_heads": [3]})
    settings = SETTINGS | {
        "search_space": space, "change_qkv": options.change_qkv, "gp": options.gp, "scale": options.scale,
        "input_size": SIZES.image,
    }  # fmt: skip
    picker = Picker(autoformer_state(SIZES, options), Path("oracle"), settings)
    return AutoFormerImporter().read(picker)[1].double()


def _images(rows: int = 2) -> Tensor:
    return torch.randn(rows, 3, SIZES.image, SIZES.image, generator=torch.Generator().manual_seed(1)).double()


def _sample(spec: SubnetSpec) -> Sample:
    layers = spec.keep[0]
    heads = [int(spec.width(f"layer{number}.heads")) for number in layers]
    return Sample(len(layers), int(spec.width("embed")), heads, [spec.width(f"layer{number}.mlp") for number in layers])


@given(data=st.data(), options=OPTIONS)
def test_computes_what_autoformer_defines(data: st.DataObject, options: Options) -> None:
    """Any embedding width, heads and MLP of each layer, and depth; under any options of the training script."""
    network = _network(options)
    spec = data.draw(specs(network.space))
    expected = autoformer_forward(
        _double_state(options), _images(), _sample(spec), options, patch=SIZES.patch, heads=SIZES.heads
    )
    with torch.inference_mode():
        apply(bind(network, spec, {}))
        torch.testing.assert_close(network(_images()), expected, rtol=1e-9, atol=1e-9)


def test_the_extracted_subnet_has_nothing_that_it_does_not_run() -> None:
    """Gradients reach all of its parameters, and their number is that of the definition's slices."""
    network = _network(Options())
    spec = network.autoformer_spec(2, 16, [1, 2], [1.5, 2.0])
    plain = extract(network, spec, {}).requires_grad_()
    plain(_images()).square().sum().backward()
    assert all(parameter.grad is not None for parameter in plain.parameters())
    embed, tokens, tables = 16, 10, 2 * 2 * 4 * 8
    layers = [
        4 * embed
        + (embed + 1) * 3 * heads * 8
        + (heads * 8 + 1) * embed
        + tables
        + 2 * embed * neurons
        + neurons
        + embed
        for heads, neurons in ((1, 24), (2, 32))
    ]
    around = (3 * 8 * 8 + 1) * embed + (1 + tokens) * embed + 2 * embed + (embed + 1) * SIZES.classes
    assert parameters(network, spec) == around + sum(layers)


def test_bias_and_weight_of_a_head_go_different_ways() -> None:
    """With two of three heads, keys get the biases from where those of queries end, and every third row of weights."""
    network, state = _network(Options()), _double_state(Options())
    projection = network.get_submodule("blocks.1.attn.qkv")
    assert isinstance(projection, Projection)
    weight, bias = projection.bind(48, 16)
    assert bias is not None
    # Head 1 of two, its key: rows 64.. of 3 * (heads * 8) in AutoFormer's order.
    rows = slice(24 + 8, 24 + 16)
    assert torch.equal(weight[rows], state["blocks.1.attn.qkv.weight"][25:48:3, :16])
    assert torch.equal(bias[rows], state["blocks.1.attn.qkv.bias"][16 + 8 : 16 + 16])


def test_a_projection_is_one_view_however_many_heads_run() -> None:
    projection = _network(Options()).get_submodule("blocks.0.attn.qkv")
    assert isinstance(projection, Projection)
    for heads in (1, 2, 3):
        weight, bias = projection.bind(24 * heads, 12)
        assert bias is not None
        assert weight.data_ptr() == projection.weight.data_ptr()
        assert bias.untyped_storage().data_ptr() == projection.biases.untyped_storage().data_ptr()


with torch.device("meta"):
    TINY = AutoFormer(AutoFormerConfig())


def test_the_whole_network_is_the_published() -> None:
    """AutoFormer-base for ten classes, as its training script logs it: 79,525,770 parameters."""
    with torch.device("meta"):
        base = AutoFormer(
            AutoFormerConfig(
                classes=10,
                width=640,
                embed_dims=(528, 576, 624),
                heads=(9, 10),
                mlp_ratios=(3.0, 3.5, 4.0),
                depths=(16,),
            )
        )
    for_nine_heads = 16 * 3 * 640
    assert sum(parameter.numel() for parameter in base.parameters()) - for_nine_heads == 79_525_770


def test_multiply_accumulates_rise_with_every_dimension() -> None:
    network = copy.deepcopy(_network(Options())).to("meta")

    def macs(layers: int, embed: int, heads: int, ratio: float) -> int:
        spec = network.autoformer_spec(layers, embed, heads, ratio)
        return count_macs(network, spec, (_images(1).to("meta"),))

    smallest = macs(1, 12, 1, 1.0)
    assert smallest < min(macs(2, 12, 1, 1.0), macs(1, 16, 1, 1.0), macs(1, 12, 2, 1.0), macs(1, 12, 1, 1.5))


def test_everything_follows_the_embedding_width() -> None:
    geometry = TINY.geometry(TINY.autoformer_spec(12, 216, 3, 3.5))
    embed, heads, neurons = 216, 3 * 64, 756
    assert geometry.slices["patch_embed_super.proj"] == (embed, 3)
    assert geometry.slices["cls_token"] == (embed, 1)
    assert geometry.slices["pos_embed"] == (embed, 197)
    assert geometry.slices["blocks.3.attn.qkv"] == (3 * heads, embed)
    assert geometry.slices["blocks.3.attn.proj"] == (embed, heads)
    assert geometry.slices["blocks.3.fc1"] == (neurons, embed)
    assert geometry.slices["blocks.3.fc2"] == (embed, neurons)
    norms = {size for name, size in geometry.slices.items() if name.endswith("norm")}
    assert norms == {(embed, embed)}
    assert geometry.slices["head"] == (1000, embed)
    assert len(geometry.slices) == 5 + 12 * 6
    assert not geometry.channels


def test_entries_go_to_their_layers() -> None:
    spec = TINY.autoformer_spec(13, [240] * 13, [3] * 12 + [4], [4.0] + [3.5] * 12)
    assert spec.keep == (tuple(range(13)),)
    assert (spec.width("layer0.mlp"), spec.width("layer1.mlp")) == (4.0, 3.5)
    assert (spec.width("layer11.heads"), spec.width("layer12.heads")) == (3.0, 4.0)


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ((11, 192, 3, 3.5), "depth 11 of stage 0"),
        ((12, 256, 3, 3.5), "'embed' = 256.0 is not one of"),
        ((12, 192, 2, 3.5), "'layer0.heads' = 2.0 is not one of"),
        ((12, 192, 3, 3.0), "'layer0.mlp' = 3.0"),
        ((12, 192, [3] * 13, 3.5), "num_heads has 13 values; give 12"),
        ((12, [192] * 11 + [216], 3, 3.5), "one width"),
    ],
)
def test_what_is_not_in_the_space_is_named(
    arch: tuple[int, int | list[int], int | list[int], float], message: str
) -> None:
    with pytest.raises(IllegalSubnetError, match=message):
        TINY.autoformer_spec(*arch)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": 0}, "positive"),
        ({"image_size": 225}, "multiple of patch 16"),
        ({"embed_dims": [240, 192]}, "rise strictly"),
        ({"embed_dims": [192, 320]}, "not exceed width 256"),
        ({"heads": [2, 3]}, "multiple of the largest of heads"),
        ({"heads": []}, "rise strictly"),
        ({"change_qkv": False}, "one number without change_qkv"),
        ({"scale": True, "mlp_ratios": [3.3]}, "with scale be whole"),
        ({"depth": 12}, "unknown field `depth`"),
    ],
)
def test_impossible_architectures_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_network("autoformer", change)
