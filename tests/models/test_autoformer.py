"""AutoFormer at its published size against its definition, and against timm's ViT where both are the same network.

The definition is written out in tests/support/autoformer.py; small networks under every option of the training script
are compared with it in tests/supernet/zoo.
"""

from functools import cache, partial
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from superserve.subnet import SubnetSpec
from superserve.supernet.actuator import apply, bind
from superserve.supernet.aot import EXAMPLE_ROWS, compile_module
from superserve.supernet.extract import extract
from superserve.supernet.importing.autoformer import AutoFormerImporter
from superserve.supernet.importing.checkpoint import Picker
from superserve.supernet.zoo.autoformer import AutoFormer
from support.autoformer import SETTINGS, Options, Sample, Sizes, autoformer_forward, autoformer_state
from support.compiled import why_not
from support.plain_models import randomised

TOLERANCE = 1e-5
TINY = Sizes(image=224, patch=16, width=256, heads=4, neurons=1024, layers=14, reach=14, classes=1000)
SAMPLES = (
    Sample(12, 192, [3] * 12, [3.5] * 12),
    Sample(14, 240, [4] * 14, [4.0] * 14),
    Sample(13, 216, [3, 4] * 6 + [3], [4.0, 3.5] * 6 + [3.5]),
)


def _read(state: dict[str, Tensor], **settings: object) -> AutoFormer:
    return AutoFormerImporter().read(Picker(state, Path("oracle"), settings))[1]


@cache
def _tiny() -> tuple[dict[str, Tensor], AutoFormer]:
    state = autoformer_state(TINY)
    return state, _read(state)


@pytest.mark.parametrize("sample", SAMPLES)
def test_subnets_of_the_published_size_are_those_of_the_definition(sample: Sample) -> None:
    state, network = _tiny()
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    expected = autoformer_forward(state, images, sample, Options(), patch=TINY.patch, heads=TINY.heads)
    spec = network.autoformer_spec(sample.layer_num, sample.embed_dim, sample.num_heads, sample.mlp_ratio)
    with torch.inference_mode():
        apply(bind(network, spec, {}))
        found = network(images)
        assert torch.equal(extract(network, spec, {})(images), found)
    assert expected.std() > 0.1, "logits too alike to compare"
    assert (found - expected).abs().max() <= TOLERANCE * expected.abs().max()


VIT = {"img_size": 32, "patch_size": 8, "mlp_ratio": 2.0, "num_classes": 5, "class_token": True, "global_pool": "token"}
SPACE = {"embed_dim": [32, 64], "num_heads": [2, 4], "mlp_ratio": [1.0, 2.0], "depth": [2, 4]}


def _vit(**sizes: int) -> nn.Module:
    layer_norm = partial(nn.LayerNorm, eps=1e-5)
    model: nn.Module = timm.models.VisionTransformer(**VIT, **sizes, norm_layer=layer_norm)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return randomised(model).requires_grad_(requires_grad=False)


def _in_autoformers_layout(vit: nn.Module, *, interleaved: bool) -> dict[str, Tensor]:
    """A timm ViT's weights as AutoFormer would store them."""
    names = {
        "patch_embed.": "patch_embed_super.", ".norm1.": ".attn_layer_norm.", ".norm2.": ".ffn_layer_norm.",
        ".mlp.": ".",
    }  # fmt: skip
    state = {}
    for name, tensor in vit.state_dict().items():
        for theirs, ours in names.items():
            name = name.replace(theirs, ours)  # noqa: PLW2901 (one name, step by step)
        state[name] = tensor
        if interleaved and name.endswith("qkv.weight"):
            state[name] = torch.stack(tensor.chunk(3), 1).flatten(0, 1)
    return state


@pytest.mark.parametrize("interleaved", [False, True])
def test_the_whole_network_is_timms(interleaved: bool) -> None:
    """Without relative positions, with the class token: an ordinary ViT, in either layout of its fused projections."""
    vit = _vit(embed_dim=64, num_heads=4, depth=4)
    space = SPACE | ({} if interleaved else {"num_heads": [4]})
    network = _read(
        _in_autoformers_layout(vit, interleaved=interleaved),
        search_space=space, num_heads=4, gp=False, change_qkv=interleaved,
    )  # fmt: skip
    _same(network, network.autoformer_spec(4, 64, 4, 2.0), vit)


def test_a_subnet_is_a_smaller_vit_of_timms() -> None:
    """Half of the embedding, of the heads and of the layers; biases are AutoFormer's."""
    whole, small = _vit(embed_dim=64, num_heads=4, depth=4), _vit(embed_dim=32, num_heads=2, depth=2)
    sliced = {}
    state = whole.state_dict()
    for name, target in small.state_dict().items():
        if name.endswith("qkv.weight"):
            parts = [part[:32, :32] for part in state[name].chunk(3)]
            sliced[name] = torch.cat(parts)
        else:
            sliced[name] = state[name][tuple(slice(size) for size in target.shape)]
    small.load_state_dict(sliced)
    network = _read(_in_autoformers_layout(whole, interleaved=True), search_space=SPACE, num_heads=4, gp=False)
    _same(network, network.autoformer_spec(2, 32, 2, 2.0), small)


def _same(network: AutoFormer, spec: SubnetSpec, vit: nn.Module) -> None:
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        apply(bind(network, spec, {}))
        expected, found = vit(images), network(images)
    assert expected.std() > 0.1, "logits too alike to compare"
    assert (found - expected).abs().max() <= TOLERANCE * expected.abs().max()


# torch's compiler warns about parts of torch.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.skipif(bool(why_not()), reason=why_not() or "a C++ compiler is there")
def test_compiled_code_computes_the_same_for_any_number_of_rows(tmp_path: Path) -> None:
    network = _read(autoformer_state(), **SETTINGS)
    spec = network.autoformer_spec(2, 16, [1, 3], 1.5)
    images = torch.randn(5, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    compiled = compile_module(extract(network, spec, {}), [images[:EXAMPLE_ROWS]], tmp_path / "subnet.so")
    apply(bind(network, spec, {}))
    for rows in (1, 2, 5):
        (found,) = compiled.run([images[:rows]])
        torch.testing.assert_close(found, network(images[:rows]), rtol=1e-4, atol=1e-5)
