"""Adapters: layers that the tracer cannot see through."""

import sys

import pytest
import torch
from torch import nn

from superserve.supernet.conversion import (
    Adaptation,
    adapters,
    convert,
    linear_members,
    register_adapter,
    reorder_by_importance,
)
from support.plain_models import FusedAttention, TinyTransformer, randomised

WORDS = torch.randint(0, 20, (3, 6), generator=torch.Generator().manual_seed(0))


def adapt(module: nn.Module) -> Adaptation:
    members = linear_members(module, "qkv", 0, copies=3) + linear_members(module, "proj", 1)
    heads = module.num_heads
    assert isinstance(heads, int)
    return Adaptation(heads, members, {"num_heads": heads})


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapters, "_ADAPTERS", list(adapters._ADAPTERS))
    register_adapter(lambda module: isinstance(module, FusedAttention), adapt)


@pytest.fixture
def model() -> nn.Module:
    return randomised(TinyTransformer(attention=FusedAttention)).requires_grad_(requires_grad=False)


def test_without_an_adapter_fused_attention_stays_fixed(model: nn.Module) -> None:
    conversion = convert(model, WORDS)
    assert {width.name for width in conversion.report.widths} == {f"layers.{i}.fc1" for i in range(4)}
    reasons = {part.name: part.reason for part in conversion.report.fixed}
    assert reasons["layers.0.attention.qkv"].endswith("if it is a fused projection, an adapter can say so")


@pytest.mark.usefixtures("registered")
def test_with_an_adapter_whole_heads_are_kept(model: nn.Module) -> None:
    """Against attention with the kept rows copied by hand."""
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    before = model(WORDS)
    conversion = convert(model, WORDS)
    assert torch.equal(model(WORDS), before)
    names = {f"layers.{i}.attention" for i in range(4)}
    assert names < {width.name for width in conversion.space.widths}
    ratios = dict(conversion.space.largest().widths) | dict.fromkeys(names, 0.5)
    conversion.actuate(conversion.space.spec((4,), ratios))

    small = randomised(TinyTransformer([(2, 64)] * 4, attention=FusedAttention), seed=1)
    target = small.state_dict()
    for name in target:
        tensor = state[name]
        if "qkv" in name:
            tensor = torch.cat([part[:16] for part in tensor.chunk(3)])
        elif "proj.weight" in name:
            tensor = tensor[:, :16]
        target[name] = tensor
    small.load_state_dict(target)
    torch.testing.assert_close(model(WORDS), small(WORDS), rtol=0, atol=1e-5)


@pytest.mark.usefixtures("registered")
def test_extracted_and_reordered(model: nn.Module) -> None:
    conversion = convert(model, WORDS)
    before = model(WORDS)
    orders = reorder_by_importance(conversion)
    assert any(orders[f"layers.{i}.attention"] != (0, 1, 2, 3) for i in range(4))
    torch.testing.assert_close(model(WORDS), before, rtol=0, atol=1e-5)
    spec = conversion.space.smallest()
    conversion.actuate(spec)
    plain = conversion.extract(spec)
    torch.testing.assert_close(plain(WORDS), model(WORDS), rtol=0, atol=1e-5)
    attention = plain.get_submodule("layers.0.attention")
    assert type(attention) is FusedAttention
    assert attention.num_heads == 2
    assert type(attention.qkv) is nn.Linear
    assert attention.qkv.out_features == 48


def test_the_latest_adapter_wins_and_may_refuse(monkeypatch: pytest.MonkeyPatch, model: nn.Module) -> None:
    monkeypatch.setattr(adapters, "_ADAPTERS", list(adapters._ADAPTERS))
    register_adapter(lambda module: isinstance(module, FusedAttention), adapt)
    register_adapter(lambda module: isinstance(module, FusedAttention), lambda _module: None)
    conversion = convert(model, WORDS)
    assert not any("attention" in width.name for width in conversion.report.widths)


def test_timm_is_not_needed_to_know_its_attention() -> None:
    assert "timm" not in sys.modules
