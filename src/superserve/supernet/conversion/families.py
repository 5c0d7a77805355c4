"""Adapters for models of libraries that people use; none of them is imported here.

What these libraries' other models need no adapter for, such as BERT, Llama or ConvNeXt, is found by watching them.
"""

from typing import Any

from torch import nn

from superserve.supernet.conversion.adaptations import Concatenation, Projection, Units
from superserve.supernet.conversion.adapters import register_adapter


@register_adapter("timm.layers.attention.Attention", "timm.models.vision_transformer.Attention")
def timm_attention(attention: Any) -> Units | None:  # noqa: ANN401 (a class that is not imported)
    """Attention of timm's vision transformers, whose ``qkv`` is fused (older releases have it in another module)."""
    if not isinstance(getattr(attention, "norm", nn.Identity()), nn.Identity):
        return None  # it normalises over all heads together
    # Older releases reshape to the width of the input instead, which does not shrink: those are found out by running.
    attributes = tuple(name for name in ("num_heads", "attn_dim") if hasattr(attention, name))
    gate = {} if getattr(attention, "gate", None) is None else {"gate": 1}
    return Units(count=attention.num_heads, produced_by={"qkv": 3, **gate}, read_by=("proj",), attributes=attributes)


@register_adapter("transformers.pytorch_utils.Conv1D")
def conv1d(_layer: Any) -> Projection:  # noqa: ANN401
    """The linear layer of GPT-2 and its kind, whose weight is transposed."""
    return Projection(transposed=True, counts_outputs=("nf",), counts_inputs=("nx",))


@register_adapter("transformers.models.gpt2.modeling_gpt2.GPT2Attention")
def gpt2_attention(attention: Any) -> Units:  # noqa: ANN401
    """Attention of GPT-2: ``c_attn`` is queries, keys and values, or keys and values alone in a cross-attention."""
    projections = {"q_attn": 1, "c_attn": 2} if attention.is_cross_attention else {"c_attn": 3}
    attributes = ("num_heads", "split_size")
    return Units(count=attention.num_heads, produced_by=projections, read_by=("c_proj",), attributes=attributes)


@register_adapter("torchvision.models.densenet._DenseBlock", "timm.models.densenet.DenseBlock")
def dense_block(block: nn.Module) -> Concatenation:
    """A dense block: each layer's output is put behind what all layers before it have made."""
    return Concatenation(parts=tuple(name for name, _ in block.named_children()))
