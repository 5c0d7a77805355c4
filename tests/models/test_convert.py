"""`convert` on models that people have, with random weights: nothing of them is changed or known beforehand."""

import copy
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    ViTConfig,
    ViTForImageClassification,
)

from superserve.supernet.conversion import convert, reorder_by_importance
from superserve.supernet.conversion.arguments import tensors
from superserve.supernet.network import ElasticNetwork
from support import upstream_models
from support.peers import import_torchvision
from support.plain_models import randomised

TOLERANCE = 1e-5
TEXT = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 128}
torchvision = import_torchvision()


class Case(NamedTuple):
    build: Callable[[], nn.Module]
    example: Callable[[], Any]
    widths: int
    """How many elastic widths are expected."""
    depths: tuple[tuple[int, ...], ...]
    """Of every stage."""
    some: Mapping[str, tuple[str, tuple[int, ...]]]
    """A few widths: kind, and the numbers of units that may be kept."""


def _images(size: int = 64) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


def _words(length: int = 9) -> Tensor:
    return torch.randint(0, 100, (2, length), generator=torch.Generator().manual_seed(0))


def _text() -> dict[str, Tensor]:
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[1, 6:] = 0
    return {"input_ids": _words(), "attention_mask": mask}


CASES: Mapping[str, Case] = {
    "torchvision resnet18": Case(
        torchvision.models.resnet18,
        _images,
        8,
        ((1, 2),) * 4,
        {"layer1.0.conv1": ("channels", (32, 48, 64))},
    ),
    "torchvision resnet50": Case(
        torchvision.models.resnet50,
        _images,
        33,
        ((2, 3), (2, 3, 4), (3, 5, 6), (2, 3)),
        {"conv1": ("channels", (32, 48, 64)), "layer4.2.conv2": ("channels", (256, 384, 512))},
    ),
    "torchvision resnext50": Case(
        torchvision.models.resnext50_32x4d,
        _images,
        17,
        ((2, 3), (2, 3, 4), (3, 5, 6), (2, 3)),
        {"layer1.0.conv1": ("channels", (16, 24, 32))},
    ),
    "torchvision mobilenet_v2": Case(
        torchvision.models.mobilenet_v2,
        _images,
        20,
        ((1, 2), (2, 3), (2, 3, 4), (2, 3), (2, 3)),
        {"features.16.conv.0.0": ("channels", (480, 720, 960))},
    ),
    "timm resnet26": Case(
        lambda: timm.create_model("resnet26"),
        _images,
        17,
        ((1, 2),) * 4,
        {"layer2.1.conv2": ("channels", (64, 96, 128))},
    ),
    "timm mobilenetv3": Case(
        lambda: timm.create_model("mobilenetv3_small_100"),
        _images,
        23,
        ((1, 2), (2, 3), (1, 2), (2, 3)),
        {
            "blocks.4.1.conv_pw": ("channels", (288, 432, 576)),
            "blocks.4.1.se.conv_reduce": ("channels", (72, 112, 144)),
        },
    ),
    "timm vit, fused qkv": Case(
        lambda: timm.create_model(
            "vit_tiny_patch16_224", img_size=64, embed_dim=64, num_heads=4, depth=4, num_classes=7
        ),
        _images,
        8,
        ((2, 3, 4),),
        {"blocks.0.attn": ("heads", (2, 3, 4)), "blocks.3.mlp.fc1": ("neurons", (128, 192, 256))},
    ),
    "transformers bert": Case(
        lambda: BertForSequenceClassification(BertConfig(**TEXT, vocab_size=100)),
        _text,
        9,
        ((2, 3, 4),),
        {
            "bert.encoder.layer.0.attention.self.query": ("heads", (2, 3, 4)),
            "bert.encoder.layer.3.intermediate.dense": ("neurons", (64, 96, 128)),
        },
    ),
    "transformers bert, eager attention": Case(
        lambda: BertForSequenceClassification(BertConfig(**TEXT, vocab_size=100, attn_implementation="eager")),
        _text,
        9,
        ((2, 3, 4),),
        {"bert.encoder.layer.3.attention.self.query": ("heads", (2, 3, 4))},
    ),
    "transformers distilbert": Case(
        lambda: DistilBertForSequenceClassification(
            DistilBertConfig(dim=64, n_layers=4, n_heads=4, hidden_dim=128, vocab_size=100)
        ),
        _text,
        9,
        ((2, 3, 4),),
        {
            "distilbert.transformer.layer.1.attention.q_lin": ("heads", (2, 3, 4)),
            "distilbert.transformer.layer.1.ffn.lin1": ("neurons", (64, 96, 128)),
        },
    ),
    "transformers vit": Case(
        lambda: ViTForImageClassification(ViTConfig(**TEXT, image_size=32, patch_size=8)),
        lambda: _images(32),
        8,
        ((2, 3, 4),),
        {"vit.layers.0.attention.q_proj": ("heads", (2, 3, 4)), "vit.layers.0.mlp.fc1": ("neurons", (64, 96, 128))},
    ),
    "timm convnext": Case(
        upstream_models.convnext,
        _images,
        8,
        ((1, 2), (0, 1), (2, 3), (1, 2)),
        {"stages.2.blocks.1.mlp.fc1": ("neurons", (96, 144, 192))},
    ),
    "timm densenet": Case(
        upstream_models.densenet,
        _images,
        9,
        ((2, 3), (2, 3, 4), (1, 2)),
        {"features.denseblock2.denselayer3.conv1": ("channels", (8, 16))},
    ),
    "transformers gpt2": Case(
        upstream_models.gpt2,
        _words,
        8,
        ((2, 3, 4),),
        {
            "model.transformer.h.0.attn": ("heads", (2, 3, 4)),
            "model.transformer.h.3.mlp.c_fc": ("neurons", (128, 192, 256)),
        },
    ),
    "transformers llama, grouped queries": Case(
        lambda: LlamaForCausalLM(LlamaConfig(**TEXT, num_key_value_heads=2, vocab_size=100, use_cache=False)),
        lambda: {"input_ids": _words()},
        8,
        ((2, 3, 4),),
        {
            "model.layers.0.self_attn.q_proj": ("heads", (1, 2)),
            "model.layers.0.mlp.gate_proj": ("neurons", (64, 96, 128)),
        },
    ),
}


@pytest.fixture(params=sorted(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture
def model(case: Case) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return randomised(case.build()).requires_grad_(requires_grad=False)


def _run(model: nn.Module, example: Any) -> list[Tensor]:
    with torch.no_grad():
        output = model(**example) if isinstance(example, dict) else model(example)
    return [tensor.clone() for tensor in tensors(output)]


def _same(first: list[Tensor], second: list[Tensor]) -> bool:
    return len(first) == len(second) and all(map(torch.equal, first, second))


def _close(first: list[Tensor], second: list[Tensor]) -> None:
    torch.testing.assert_close(first, second, rtol=0, atol=TOLERANCE * max(1.0, float(second[0].abs().max())))


def test_what_is_found(case: Case, model: nn.Module) -> None:
    report = convert(model, case.example()).report
    widths = {width.name: (width.kind, width.kept) for width in report.widths}
    assert len(widths) == case.widths, str(report)
    assert tuple(stage.depths for stage in report.stages) == case.depths, str(report)
    assert {name: widths.get(name) for name in case.some} == case.some, str(report)
    assert not any("runs" in part.reason and "narrower" in part.reason for part in report.fixed)


def test_the_model_stays_what_it_was(case: Case, model: nn.Module) -> None:
    example = case.example()
    keys, before = list(model.state_dict()), _run(model, example)
    kinds = {name: type(module) for name, module in model.named_modules()}
    calls: list[str] = []
    name, watched = [(name, part) for name, part in model.named_modules() if isinstance(part, nn.Linear)][-1]
    watched.register_forward_hook(lambda *_: calls.append(name))
    conversion = convert(model, example)
    calls.clear()
    assert _same(_run(model, example), before)
    assert calls == [name]
    assert list(model.state_dict()) == keys
    assert isinstance(model, ElasticNetwork)
    assert all(isinstance(module, kinds[name]) for name, module in model.named_modules())
    conversion.actuate(conversion.space.smallest())
    smallest = _run(model, example)
    assert not _same(smallest, before)
    conversion.actuate(conversion.space.largest())
    assert _same(_run(model, example), before)
    conversion.actuate(conversion.space.smallest())
    assert _same(_run(model, example), smallest)


def test_actuated_equals_extracted(case: Case, model: nn.Module) -> None:
    example = case.example()
    conversion = convert(model, example)
    rng = np.random.default_rng(0)
    space = conversion.space
    for spec in (space.smallest(), *(space.sample(rng) for _ in range(4)), space.largest()):
        conversion.actuate(spec)
        plain = conversion.extract(spec)
        ours = {type(part).__name__ for part in plain.modules() if type(part).__module__.startswith("superserve")}
        assert ours <= {"PassThrough"}
        assert {type(part) for part in plain.modules()} <= {*_kinds(case), nn.Identity} | {
            type(part) for part in plain.modules() if type(part).__name__ == "PassThrough"
        }
        _close(_run(plain, example), _run(model, example))


def _kinds(case: Case) -> set[type[nn.Module]]:
    return {type(part) for part in case.build().modules()}


def test_other_batches_than_the_example(case: Case, model: nn.Module) -> None:
    """What was found on two rows holds for one and for five."""
    example = case.example()
    conversion = convert(model, example)
    spec = conversion.space.smallest()
    conversion.actuate(spec)
    plain = conversion.extract(spec)
    for rows in (1, 5):
        other = _rows(example, rows)
        _close(_run(plain, other), _run(model, other))
        assert _run(model, other)[0].shape[0] == rows


def _rows(example: Any, rows: int) -> Any:
    if isinstance(example, dict):
        return {key: _rows(value, rows) for key, value in example.items()}
    return example[torch.arange(rows) % len(example)]


def test_reordering_keeps_the_full_network(case: Case, model: nn.Module) -> None:
    example = case.example()
    conversion = convert(model, example)
    before = _run(model, example)
    orders = reorder_by_importance(conversion)
    assert any(order != tuple(sorted(order)) for order in orders.values())
    _close(_run(model, example), before)


def test_calibration(case: Case, model: nn.Module) -> None:
    example = case.example()
    conversion = convert(model, example)
    spec = conversion.space.smallest()
    batches = [tuple(example.values()) if isinstance(example, dict) else example]
    statistics = conversion.calibrate(batches, spec)[spec]
    norms = [name for name, part in model.named_modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    assert set(statistics) <= set(norms)
    assert bool(statistics) == bool(norms)
    conversion.actuate(spec)
    _close(_run(conversion.extract(spec), example), _run(model, example))


def test_torchvision_resnet_against_one_built_narrower() -> None:
    """torchvision can build the same network with half of every bottleneck, and with fewer blocks."""
    models = torchvision.models.resnet
    model = randomised(models.ResNet(models.Bottleneck, [3, 3, 2, 2]))
    conversion = convert(model, _images())
    ratios = {width.name: 0.5 if ".conv" in width.name else 1.0 for width in conversion.space.widths}
    spec = conversion.space.spec((2, 3, 1, 1), ratios)
    small = models.ResNet(models.Bottleneck, [2, 3, 1, 1], width_per_group=32)
    state = model.state_dict()
    small.load_state_dict(
        {
            name: state[name][tuple(slice(size) for size in target.shape)] if target.dim() else state[name]
            for name, target in small.state_dict().items()
        }
    )
    conversion.actuate(spec)
    _close(_run(model, _images()), _run(small.eval(), _images()))


def test_bert_against_heads_and_neurons_cut_by_hand() -> None:
    model = randomised(BertForSequenceClassification(BertConfig(**TEXT, vocab_size=100)))
    small: Any = copy.deepcopy(model)
    conversion = convert(model, _text())
    ratios = dict(conversion.space.largest().widths)
    ratios |= {name: 0.75 if "query" in name else 0.5 for name in ratios if "layer" in name}
    spec = conversion.space.spec((3,), ratios)
    assert spec.keep == ((0, 1, 2),)
    encoder = small.bert.encoder
    encoder.layer = nn.ModuleList(encoder.layer[i] for i in (0, 1, 2))
    for layer in encoder.layer:
        for part in (layer.attention.self.query, layer.attention.self.key, layer.attention.self.value):
            part.weight, part.bias = nn.Parameter(part.weight[:48]), nn.Parameter(part.bias[:48])
        layer.attention.output.dense.weight = nn.Parameter(layer.attention.output.dense.weight[:, :48])
        up, down = layer.intermediate.dense, layer.output.dense
        up.weight, up.bias = nn.Parameter(up.weight[:64]), nn.Parameter(up.bias[:64])
        down.weight = nn.Parameter(down.weight[:, :64])
    conversion.actuate(spec)
    _close(_run(model, _text()), _run(small, _text()))


def test_without_the_adapter_timm_attention_would_stay_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("superserve.supernet.conversion.adapters._ADAPTERS", {})
    report = convert(CASES["timm vit, fused qkv"].build().eval(), _images()).report
    assert {width.kind for width in report.widths} == {"neurons"}
    reasons = {part.name: part.reason for part in report.fixed}
    assert "if it is a fused projection, an adapter can say so" in reasons["blocks.0.attn.qkv"]
