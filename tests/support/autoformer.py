"""Checkpoints in AutoFormer's layout with random weights, and its forward written out once more.

Source of the formulas: microsoft/Cream, ``AutoFormer/model`` (``supernet_transformer.py`` and ``module``). Nothing of
SuperServe is used here, and nothing is fast: relative positions are a tensor with an embedding for every two tokens.
"""

import math
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class Options(NamedTuple):
    """What AutoFormer's training script can be told about the network."""

    change_qkv: bool = True
    relative_position: bool = True
    abs_pos: bool = True
    gp: bool = True
    scale: bool = False


class Sizes(NamedTuple):
    """Of a whole network; ``classes`` are numbered."""

    image: int = 24
    patch: int = 8
    width: int = 24
    heads: int = 3
    neurons: int = 48
    layers: int = 3
    reach: int = 1
    classes: int = 4


class Sample(NamedTuple):
    """A subnet, as ``set_sample_config`` takes it."""

    layer_num: int
    embed_dim: int
    num_heads: list[int]
    mlp_ratio: list[float]


#: ``config.json`` beside `autoformer_state`: without it nobody knows which subnets there are.
SETTINGS: dict[str, Any] = {
    "num_heads": 3,
    "search_space": {
        "embed_dim": [12, 16, 24], "num_heads": [1, 2, 3], "mlp_ratio": [1.0, 1.5, 2.0], "depth": [1, 2, 3],
    },
}  # fmt: skip


def autoformer_shapes(sizes: Sizes, options: Options) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the state_dict of a ``Vision_TransformerSuper``."""
    width, neurons = sizes.width, sizes.neurons
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width),
        "patch_embed_super.proj.weight": (width, 3, sizes.patch, sizes.patch),
        "patch_embed_super.proj.bias": (width,),
        "head.weight": (sizes.classes, width),
        "head.bias": (sizes.classes,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    if options.abs_pos:
        shapes["pos_embed"] = (1, (sizes.image // sizes.patch) ** 2 + 1, width)
    linear = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
    linear |= {"fc1": (neurons, width), "fc2": (width, neurons)}
    for number in range(sizes.layers):
        block = f"blocks.{number}"
        for name, (outputs, inputs) in linear.items():
            shapes[f"{block}.{name}.weight"], shapes[f"{block}.{name}.bias"] = (outputs, inputs), (outputs,)
        for norm in ("attn_layer_norm", "ffn_layer_norm"):
            shapes[f"{block}.{norm}.weight"] = shapes[f"{block}.{norm}.bias"] = (width,)
        if options.relative_position:
            for table in (
                "k.embeddings_table_v",
                "k.embeddings_table_h",
                "v.embeddings_table_v",
                "v.embeddings_table_h",
            ):
                shapes[f"{block}.attn.rel_pos_embed_{table}"] = (2 * sizes.reach + 2, width // sizes.heads)
    return shapes


def autoformer_state(sizes: Sizes = Sizes(), options: Options = Options()) -> dict[str, Tensor]:  # noqa: B008 (immutable)
    """Random weights by those names, of which every value matters."""
    generator = torch.Generator().manual_seed(0)
    return {name: _random(name, shape, generator) for name, shape in autoformer_shapes(sizes, options).items()}


def _random(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    values = torch.randn(shape, generator=generator)
    if "norm.weight" in name:
        return 1 + values / 4
    if len(shape) == 2 and "table" not in name:
        # Sharp attention and logits that differ: nothing must be lost in an average.
        return values * (1.5 / math.sqrt(shape[1]))
    return values / 4 if len(shape) == 4 else values / 2


def autoformer_forward(
    state: Mapping[str, Tensor], images: Tensor, sample: Sample, options: Options, *, patch: int, heads: int
) -> Tensor:
    """Logits (rows, classes) of a subnet.

    Args:
        state: as `autoformer_state` makes it.
        images: (rows, 3, height, width).
        sample: the subnet.
        options: that the network was trained with.
        patch: height and width of a patch.
        heads: of the whole network.
    """
    embed = sample.embed_dim
    kernel, bias = state["patch_embed_super.proj.weight"][:embed], state["patch_embed_super.proj.bias"][:embed]
    x = functional.conv2d(images, kernel, bias, stride=patch).flatten(2).mT
    x = torch.cat((state["cls_token"][..., :embed].repeat(len(x), 1, 1), x), 1)
    if options.abs_pos:
        x = x + state["pos_embed"][..., :embed]
    for number in range(sample.layer_num):
        part = {name.removeprefix(f"blocks.{number}."): value for name, value in state.items()}
        x = x + _attention(part, _normalised(part, "attn_layer_norm", x), sample.num_heads[number], heads, options)
        x = x + _mlp(part, _normalised(part, "ffn_layer_norm", x), sample.mlp_ratio[number], options)
    x = _normalised(state, "norm", x)
    seen = x[:, 1:].mean(1) if options.gp else x[:, 0]
    logits: Tensor = seen @ state["head.weight"][:, :embed].T + state["head.bias"]
    return logits


def _normalised(state: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    width = x.size(-1)
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return scaled * state[f"{name}.weight"][:width] + state[f"{name}.bias"][:width]


def _mlp(state: Mapping[str, Tensor], x: Tensor, ratio: float, options: Options) -> Tensor:
    embed, stored = x.size(-1), state["fc1.weight"]
    neurons = int(embed * ratio)
    hidden = functional.gelu(x @ stored[:neurons, :embed].T + state["fc1.bias"][:neurons])
    out = hidden @ state["fc2.weight"][:embed, :neurons].T + state["fc2.bias"][:embed]
    return out * (stored.size(0) / stored.size(1) / ratio) if options.scale else out


def _attention(state: Mapping[str, Tensor], x: Tensor, heads: int, all_heads: int, options: Options) -> Tensor:
    embed, width = x.size(-1), state["attn.qkv.weight"].size(1)
    active = width // all_heads * heads if options.change_qkv else width
    head_width = active // heads
    stored, biases = state["attn.qkv.weight"], state["attn.qkv.bias"]
    per_head = []
    for part in range(3):
        rows = range(part, 3 * active, 3) if options.change_qkv else range(part * width, (part + 1) * width)
        y = x @ stored[list(rows), :embed].T + biases[part * active : (part + 1) * active]
        per_head.append(y.view(*y.shape[:2], heads, head_width).transpose(1, 2))
    query, key, value = per_head
    scale = (head_width if options.change_qkv else embed // heads) ** -0.5
    to_keys = to_values = torch.zeros(x.size(1), x.size(1), head_width, dtype=x.dtype)
    if options.relative_position:
        to_keys, to_values = (_ways(state, f"attn.rel_pos_embed_{which}", x.size(1)) for which in "kv")
    # Of token i for token j: its query with key j as seen from i.
    scores = torch.einsum("bhic,bhijc->bhij", query, key[:, :, None] + to_keys) * scale
    shares = scores.softmax(-1)
    mixed = torch.einsum("bhij,bhijc->bhic", shares, value[:, :, None] + to_values)
    out = torch.cat(mixed.unbind(1), -1)
    if options.scale:
        out = out * (width / active)
    return out @ state["attn.proj.weight"][:embed, :active].T + state["attn.proj.bias"][:embed]


def _ways(state: Mapping[str, Tensor], name: str, tokens: int) -> Tensor:
    """The embedding of the way between every two tokens, (tokens, tokens, head width)."""
    vertical, horizontal = state[f"{name}.embeddings_table_v"], state[f"{name}.embeddings_table_h"]
    rows, columns = _entries(tokens, len(vertical) // 2 - 1)
    return vertical[rows] + horizontal[columns]


@cache
def _entries(tokens: int, reach: int) -> tuple[Tensor, Tensor]:
    """Which entries of the vertical and the horizontal table lead from token to token; 0 at the class token."""
    side = int((tokens - 1) ** 0.5)
    rows, columns = torch.zeros(tokens, tokens, dtype=torch.long), torch.zeros(tokens, tokens, dtype=torch.long)
    for start in range(1, tokens):
        for end in range(1, tokens):
            (row, column), (other_row, other_column) = divmod(start - 1, side), divmod(end - 1, side)
            rows[start, end] = max(-reach, min(reach, other_row - row)) + reach + 1
            columns[start, end] = max(-reach, min(reach, other_column - column)) + reach + 1
    return rows, columns
