"""Small models of timm, torchvision and transformers, as their libraries build them: only for tests/models."""

from typing import Any

from torch import Tensor, nn

from support.peers import import_torchvision

torchvision = import_torchvision()

import timm  # noqa: E402 (it imports torchvision, which wants help)
from transformers import (  # noqa: E402
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
)


class Logits(nn.Module):
    """What a server wants of a Hugging Face model: token ids in, logits out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        return self.model(input_ids=ids).logits  # type: ignore[no-any-return]


def vit() -> Any:
    """timm's vision transformer: fused qkv."""
    return timm.create_model("vit_tiny_patch16_224", img_size=64, embed_dim=64, num_heads=4, depth=4, num_classes=7)


def convnext(name: str = "convnext_tiny") -> Any:
    """timm's ConvNeXt, whose inner layers are linear ones (``convnext_tiny``) or convolutions (``convnext_atto``)."""
    return timm.create_model(name, depths=(2, 1, 3, 2), dims=(16, 32, 48, 64), num_classes=7)


def torchvision_convnext() -> Any:
    setting = torchvision.models.convnext.CNBlockConfig
    return torchvision.models.ConvNeXt([setting(16, 32, 2), setting(32, None, 3)], num_classes=7)


def densenet() -> Any:
    """timm's DenseNet."""
    return timm.create_model("densenet121", growth_rate=8, block_config=(3, 4, 2), bn_size=2, num_classes=7)


def torchvision_densenet() -> Any:
    return torchvision.models.DenseNet(8, (3, 4, 2), 16, bn_size=2, num_classes=7)


def gpt2(**changes: Any) -> Any:
    """GPT-2 with a classifier; ``Conv1D`` layers."""
    sizes = {"n_embd": 64, "n_layer": 4, "n_head": 4, "vocab_size": 100, "num_labels": 7}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1, "use_cache": False}
    return Logits(GPT2ForSequenceClassification(GPT2Config(**{**sizes, **special, **changes})))


def llama() -> Any:
    """Llama with a classifier: eight heads of queries share four of keys and values."""
    sizes = {"hidden_size": 64, "num_hidden_layers": 4, "intermediate_size": 128, "vocab_size": 100, "num_labels": 7}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 4}
    return Logits(LlamaForSequenceClassification(LlamaConfig(**sizes, **heads, pad_token_id=0, use_cache=False)))
