"""Converted models of timm, torchvision and transformers against the same models pruned in plain torch.

The pruning below knows the models and nothing of ours: it copies the kept weights, and takes blocks out.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from superserve.model_folder import TensorSpec
from superserve.subnet import SubnetSpec
from superserve.supernet.conversion import Conversion, convert
from superserve.supernet.engine import EagerEngine
from superserve.supernet.zoo.converted import ALLOW
from support import upstream_models
from support.converted_folders import save_converted
from support.plain_models import randomised

TOLERANCE = 1e-5
IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
WORDS = torch.randint(1, 100, (2, 9), generator=torch.Generator().manual_seed(0))

Kept = Mapping[str, int]
"""How many units a width keeps, by the module that makes them."""
Keep = Sequence[Sequence[int]]
"""Which blocks run, per stage."""


def take(layer: Any, rows: Any = slice(None), columns: Any = slice(None)) -> None:
    """Keep rows and columns of a weight, and the rows of its bias."""
    layer.weight = nn.Parameter(layer.weight[rows][:, columns].clone())
    if layer.bias is not None:
        layer.bias = nn.Parameter(layer.bias[rows].clone())


def take_turned(layer: Any, outputs: Any = slice(None), inputs: Any = slice(None)) -> None:
    """Keep outputs and inputs of a ``Conv1D``."""
    layer.weight = nn.Parameter(layer.weight[inputs][:, outputs].clone())
    layer.bias = nn.Parameter(layer.bias[outputs].clone())
    layer.nx, layer.nf = layer.weight.shape


def take_norm(norm: Any, channels: int) -> None:
    """Keep the leading channels of a batch normalisation."""
    for name in ("weight", "bias"):
        setattr(norm, name, nn.Parameter(getattr(norm, name)[:channels].clone()))
    for name in ("running_mean", "running_var"):
        setattr(norm, name, getattr(norm, name)[:channels].clone())
    norm.num_features = channels


def thirds(inner: int, kept: int) -> Tensor:
    """Indices of the leading part of each of three projections."""
    return torch.cat([torch.arange(kept) + start for start in (0, inner, 2 * inner)])


def prune_vit(model: Any, kept: Kept, keep: Keep) -> None:
    for index in keep[0]:
        attention, mlp = model.blocks[index].attn, model.blocks[index].mlp
        heads, neurons = kept[f"blocks.{index}.attn"], kept[f"blocks.{index}.mlp.fc1"]
        width = heads * attention.head_dim
        take(attention.qkv, rows=thirds(attention.attn_dim, width))
        take(attention.proj, columns=slice(width))
        attention.num_heads, attention.attn_dim = heads, width
        take(mlp.fc1, rows=slice(neurons))
        take(mlp.fc2, columns=slice(neurons))
    model.blocks = nn.Sequential(*(model.blocks[index] for index in keep[0]))


def prune_convnext(model: Any, kept: Kept, keep: Keep) -> None:
    for number, (stage, blocks) in enumerate(zip(model.stages, keep, strict=True)):
        for index in blocks:
            mlp = stage.blocks[index].mlp
            inner = kept[f"stages.{number}.blocks.{index}.mlp.fc1"]
            take(mlp.fc1, rows=slice(inner))
            take(mlp.fc2, columns=slice(inner))
        stage.blocks = nn.Sequential(*(stage.blocks[index] for index in blocks))


def prune_torchvision_convnext(model: Any, kept: Kept, keep: Keep) -> None:
    for place, blocks in zip((1, 3), keep, strict=True):
        for index in blocks:
            block, inner = model.features[place][index].block, kept[f"features.{place}.{index}.block.3"]
            take(block[3], rows=slice(inner))
            take(block[5], columns=slice(inner))
        model.features[place] = nn.Sequential(*(model.features[place][index] for index in blocks))


def prune_densenet(model: Any, kept: Kept, keep: Keep) -> None:
    """A layer that is taken out adds nothing; what reads its block has so many inputs less."""
    for number, blocks in enumerate(keep, start=1):
        name = f"denseblock{number}"
        block = getattr(model.features, name)
        channels = block.denselayer1.norm1.num_features
        for index, (child, layer) in enumerate(list(block.named_children())):
            if index not in blocks:
                del block[child]
                continue
            middle = kept[f"features.{name}.{child}.conv1"]
            take(layer.conv1, rows=slice(middle))
            take_norm(layer.norm2, middle)
            take(layer.conv2, columns=slice(middle))
            channels += layer.conv2.out_channels
        last = number == len(keep)
        transition = None if last else getattr(model.features, f"transition{number}")
        take_norm(model.features.norm5 if transition is None else transition.norm, channels)
        take(model.classifier if transition is None else transition.conv, columns=slice(channels))


def prune_gpt2(model: Any, kept: Kept, keep: Keep) -> None:
    transformer = model.model.transformer
    for index in keep[0]:
        attention, mlp = transformer.h[index].attn, transformer.h[index].mlp
        prefix = f"model.transformer.h.{index}"
        heads, neurons = kept[f"{prefix}.attn"], kept[f"{prefix}.mlp.c_fc"]
        width = heads * attention.head_dim
        take_turned(attention.c_attn, outputs=thirds(attention.split_size, width))
        take_turned(attention.c_proj, inputs=slice(width))
        attention.num_heads, attention.split_size = heads, width
        take_turned(mlp.c_fc, outputs=slice(neurons))
        take_turned(mlp.c_proj, inputs=slice(neurons))
    transformer.h = nn.ModuleList(transformer.h[index] for index in keep[0])


def prune_llama(model: Any, kept: Kept, keep: Keep) -> None:
    """Two heads of queries go with each head of keys and values."""
    body = model.model.model
    for index in keep[0]:
        attention, mlp = body.layers[index].self_attn, body.layers[index].mlp
        prefix = f"model.model.layers.{index}"
        width = kept[f"{prefix}.self_attn.q_proj"] * attention.head_dim
        neurons = kept[f"{prefix}.mlp.gate_proj"]
        take(attention.q_proj, rows=slice(2 * width))
        take(attention.k_proj, rows=slice(width))
        take(attention.v_proj, rows=slice(width))
        take(attention.o_proj, columns=slice(2 * width))
        take(mlp.gate_proj, rows=slice(neurons))
        take(mlp.up_proj, rows=slice(neurons))
        take(mlp.down_proj, columns=slice(neurons))
    body.layers = nn.ModuleList(body.layers[index] for index in keep[0])


class Case(NamedTuple):
    builder: str
    """In `support.upstream_models`."""
    arguments: Mapping[str, Any]
    example: Tensor
    prune: Callable[[Any, Kept, Keep], None]
    widths: int
    """How many are found."""
    depths: tuple[tuple[int, ...], ...]


HALVES = ((1, 2), (0, 1), (2, 3), (1, 2))
CASES: Mapping[str, Case] = {
    "timm vit": Case("vit", {}, IMAGES, prune_vit, 8, ((2, 3, 4),)),
    "timm convnext, linear": Case("convnext", {}, IMAGES, prune_convnext, 8, HALVES),
    "timm convnext, convolutions": Case("convnext", {"name": "convnext_atto"}, IMAGES, prune_convnext, 8, HALVES),
    "torchvision convnext": Case("torchvision_convnext", {}, IMAGES, prune_torchvision_convnext, 5, ((1, 2), (2, 3))),
    "timm densenet": Case("densenet", {}, IMAGES, prune_densenet, 9, ((2, 3), (2, 3, 4), (1, 2))),
    "torchvision densenet": Case("torchvision_densenet", {}, IMAGES, prune_densenet, 9, ((2, 3), (2, 3, 4), (1, 2))),
    "gpt2": Case("gpt2", {}, WORDS, prune_gpt2, 8, ((2, 3, 4),)),
    "gpt2, eager attention": Case("gpt2", {"attn_implementation": "eager"}, WORDS, prune_gpt2, 8, ((2, 3, 4),)),
    "llama, grouped queries": Case("llama", {}, WORDS, prune_llama, 8, ((2, 3, 4),)),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture
def model(case: Case) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built: nn.Module = getattr(upstream_models, case.builder)(**case.arguments)
    return randomised(built).requires_grad_(requires_grad=False)


def run(model: nn.Module, example: Tensor) -> Tensor:
    with torch.no_grad():
        return model(example).clone()  # type: ignore[no-any-return]


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE * max(1.0, float(expected.abs().max())))


def pruned(plain: nn.Module, case: Case, conversion: Conversion, spec: SubnetSpec) -> nn.Module:
    """A subnet, cut by hand out of a copy of the model as it was."""
    numbers = {width.name: width.kept for width in conversion.report.widths}
    ratios = {width.name: width.ratios for width in conversion.space.widths}
    kept = {name: numbers[name][ratios[name].index(ratio)] for name, ratio in spec.widths}
    small = copy.deepcopy(plain)
    case.prune(small, kept, spec.keep)
    return small


def test_every_subnet_is_the_model_pruned(case: Case, model: nn.Module) -> None:
    """Widths and depths at once: the smallest subnet, some, and the largest, which is the model to the bit."""
    plain, before = copy.deepcopy(model), run(model, case.example)
    conversion = convert(model, case.example)
    space = conversion.space
    assert len(space.widths) == case.widths, str(conversion.report)
    assert tuple(stage.depths for stage in space.stages) == case.depths, str(conversion.report)
    assert torch.equal(run(model, case.example), before)
    rng = np.random.default_rng(0)
    for spec in (space.smallest(), *(space.sample(rng) for _ in range(6)), space.largest()):
        conversion.actuate(spec)
        found = run(model, case.example)
        close(found, run(pruned(plain, case, conversion, spec), case.example))
        assert torch.equal(found, before) == (spec == space.largest())


def test_served_from_a_model_folder(
    case: Case, model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Saved, built anew by its builder, and run by the engine: no adapter is asked any more."""
    plain = copy.deepcopy(model)
    conversion = convert(model, case.example)
    builder = f"support.upstream_models:{case.builder}"
    monkeypatch.setenv(ALLOW, builder)
    monkeypatch.setattr("superserve.supernet.conversion.adapters._ADAPTERS", {})
    kind = "FP32" if case.example.is_floating_point() else "INT64"
    inputs = TensorSpec("input", kind, (-1, *case.example.shape[1:]))
    folder = save_converted(conversion, tmp_path / "mine", inputs, 7, builder=builder, **case.arguments)
    engine = EagerEngine.load(folder)
    for number, record in enumerate(folder.front.subnets):
        (found,) = engine.run(number, [case.example.numpy()])
        close(torch.tensor(found), run(pruned(plain, case, conversion, record.spec), case.example))
