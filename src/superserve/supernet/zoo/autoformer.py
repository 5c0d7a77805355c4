"""AutoFormer: a vision transformer with elastic embedding width, heads, MLPs and depth.

Source: Chen et al., "AutoFormer", ICCV 2021, and its code (microsoft/Cream, ``Vision_TransformerSuper``). One embedding
width holds for the whole network: the residual stream and all that reads or writes it, normalisations included, keep
their leading channels. Each layer has its own number of heads and its own ratio of MLP neurons to embedding width; a
depth keeps the first layers. Parameters have AutoFormer's names, except that class token and positions are embeddings
here, and that fused projections are laid out otherwise (`Projection`). Dropout and stochastic depth are left out: the
network is for serving.
"""

from functools import cached_property
from itertools import pairwise

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional

from superserve.errors import IllegalSubnetError
from superserve.subnet import SearchSpace, Stage, SubnetSpec, Width
from superserve.supernet.network import ElasticNetwork
from superserve.supernet.operators import (
    Geometry,
    LayerSelect,
    SlicedConv2d,
    SlicedEmbedding,
    SlicedLayerNorm,
    SlicedLinear,
    SlicedWeight,
)
from superserve.supernet.zoo.ofa_arguments import per_entry
from superserve.supernet.zoo.registry import register
from superserve.supernet.zoo.relative_position import Lines, RelativePosition, attend, lines_of

State = tuple[Tensor, Lines | None]
"""What goes from layer to layer: tokens (rows, tokens, embedding), and the grid's lines if positions are relative."""


class AutoFormerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``architecture`` of ``config.json``; the defaults are the published supernet AutoFormer-tiny."""

    classes: int = 1000
    image_size: int = 224
    """Height and width of images, in pixels."""
    patch: int = 16
    """Height and width of a patch."""
    width: int = 256
    """Embedding width that is stored; subnets use the leading ``embed_dims``."""
    embed_dims: tuple[int, ...] = (192, 216, 240)
    heads: tuple[int, ...] = (3, 4)
    """Of a layer; at the largest number they are as wide as the stored embedding together."""
    mlp_ratios: tuple[float, ...] = (3.5, 4.0)
    """Neurons of a layer's MLP over the embedding width."""
    depths: tuple[int, ...] = (12, 13, 14)
    change_qkv: bool = True
    """Whether queries, keys and values keep their leading heads; otherwise all heads always run."""
    relative_position: bool = True
    max_relative_position: int = 14
    """The largest distance, in patches, that has an embedding of its own."""
    abs_pos: bool = True
    """Whether an embedding of each position is added at first."""
    gp: bool = True
    """Whether the classifier sees the average of the patches; otherwise it sees the class token."""
    scale: bool = False
    """Whether what attention and MLP add is scaled up by the share of heads and neurons that does not run."""
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        if min(self.classes, self.patch, self.max_relative_position) < 1:
            raise ValueError("classes, patch and max_relative_position must be positive")
        if self.image_size < self.patch or self.image_size % self.patch:
            raise ValueError(f"image_size {self.image_size} must be a multiple of patch {self.patch}")
        for name in ("embed_dims", "heads", "mlp_ratios", "depths"):
            values = getattr(self, name)
            if not values or values[0] <= 0 or any(a >= b for a, b in pairwise(values)):
                raise ValueError(f"{name} {values} must rise strictly from above 0")
        if self.embed_dims[-1] > self.width:
            raise ValueError(f"embed_dims {self.embed_dims} must not exceed width {self.width}")
        if self.width % self.heads[-1]:
            raise ValueError(f"width {self.width} must be a multiple of the largest of heads {self.heads}")
        if not self.change_qkv and len(self.heads) > 1:
            raise ValueError(f"heads {self.heads} must be one number without change_qkv: all of them always run")
        sizes = [embed * ratio for embed in self.embed_dims for ratio in self.mlp_ratios]
        if min(sizes) < 1 or (self.scale and any(size % 1 for size in sizes)):
            raise ValueError("each of embed_dims times each of mlp_ratios must be 1 or more, and with scale be whole")

    @property
    def head_width(self) -> int:
        """Channels of a head."""
        return self.width // self.heads[-1]

    @property
    def side(self) -> int:
        """Patches in a row of the image."""
        return self.image_size // self.patch


class Projection(SlicedLinear):
    """Queries, keys and values of the leading heads, by one matrix.

    Rows lie head by head, in each head first the query's, then the key's, then the value's: so the leading heads are
    the leading rows, one view that one product takes. AutoFormer's own order (query, key and value in turns, row by
    row) has no such view: its code copies the rows of a subnet when that becomes active. That code also gives the
    leading biases to all queries, then to all keys, then to all values, so that a bias belongs to another row for each
    number of heads. So there is a row of ``biases`` per number of heads, in the order of the weight's rows, for some
    0.1 % more memory. `head_by_head` and `biases_by_heads` of the importer make both from a checkpoint's.

    Args:
        inputs: at full size.
        head_width: channels of a head.
        heads: how many may run, in rising order.
    """

    def __init__(self, inputs: int, head_width: int, heads: tuple[int, ...]) -> None:
        super().__init__(inputs, 3 * head_width * heads[-1], bias=False)
        self.biases = nn.Parameter(torch.zeros(len(heads), self.out_features))
        self._choice = {3 * head_width * count: number for number, count in enumerate(heads)}

    def bind(self, outputs: int, inputs: int) -> SlicedWeight:
        """Views of the leading ``outputs`` x ``inputs`` part and of that many heads' biases."""
        return SlicedWeight(self.weight[:outputs, :inputs], self.biases[self._choice[outputs], :outputs])


class Attention(nn.Module):
    """Self-attention of as many heads as the projection has outputs for."""

    def __init__(self, config: AutoFormerConfig) -> None:
        super().__init__()
        self._config = config
        self.qkv = Projection(config.width, config.head_width, config.heads)
        if config.relative_position:
            self.rel_pos_embed_k = RelativePosition(config.head_width, config.max_relative_position)
            self.rel_pos_embed_v = RelativePosition(config.head_width, config.max_relative_position)
        self.proj = SlicedLinear(config.width, config.width)

    def forward(self, x: Tensor, lines: Lines | None) -> Tensor:
        """The shape of the tokens stays."""
        config = self._config
        heads = self.qkv(x).unflatten(-1, (-1, 3, config.head_width)).permute(3, 0, 2, 1, 4)
        # Without change_qkv AutoFormer takes the width of a head from the embedding, which is narrower than the heads.
        scale = (config.head_width if config.change_qkv else x.size(-1) // config.heads[-1]) ** -0.5
        if lines is None:
            query, key, value = heads.unbind()
            mixed = functional.scaled_dot_product_attention(query, key, value, scale=scale)
        else:
            mixed = attend(heads, self.rel_pos_embed_k, self.rel_pos_embed_v, lines, scale)
        mixed = mixed.transpose(1, 2).flatten(2)
        if config.scale:
            mixed = mixed * (config.width / mixed.size(-1))
        out: Tensor = self.proj(mixed)
        return out


class Layer(nn.Module):
    """A transformer layer that normalises first."""

    def __init__(self, config: AutoFormerConfig) -> None:
        super().__init__()
        self._upscale = config.mlp_ratios[-1] if config.scale else None
        self.attn = Attention(config)
        self.attn_layer_norm = SlicedLayerNorm(config.width, eps=config.norm_eps)
        self.ffn_layer_norm = SlicedLayerNorm(config.width, eps=config.norm_eps)
        neurons = int(config.width * config.mlp_ratios[-1])
        self.fc1 = SlicedLinear(config.width, neurons)
        self.fc2 = SlicedLinear(neurons, config.width)

    def forward(self, state: State) -> State:
        """The next tokens, and the same lines."""
        x, lines = state
        x = x + self.attn(self.attn_layer_norm(x), lines)
        hidden = functional.gelu(self.fc1(self.ffn_layer_norm(x)))
        added = self.fc2(hidden)
        if self._upscale is not None:
            added = added * (self._upscale * x.size(-1) / hidden.size(-1))
        return x + added, lines


class Patches(nn.Module):
    """Image patches, embedded."""

    def __init__(self, config: AutoFormerConfig) -> None:
        super().__init__()
        self.proj = SlicedConv2d(3, config.width, config.patch, stride=config.patch, padding=0, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """Images (rows, 3, height, width) to (rows, patches, embedding)."""
        embedded: Tensor = self.proj(x)
        return embedded.flatten(2).transpose(1, 2)


class AutoFormer(ElasticNetwork):
    """An image classifier: patches, class token and positions, layers, head."""

    def __init__(self, config: AutoFormerConfig) -> None:
        super().__init__()
        self.config = config
        self.tokens = config.side**2 + 1
        self.patch_embed_super = Patches(config)
        self.cls_token = SlicedEmbedding(1, config.width)
        if config.abs_pos:
            self.pos_embed = SlicedEmbedding(self.tokens, config.width)
        self.blocks = LayerSelect(*(Layer(config) for _ in range(config.depths[-1])))
        self.norm = SlicedLayerNorm(config.width, eps=config.norm_eps)
        self.head = SlicedLinear(config.width, config.classes)
        self.apply(_initialise)

    @cached_property
    def space(self) -> SearchSpace:
        """One stage of layers; widths ``embed`` (channels), ``layerJ.heads`` (heads) and ``layerJ.mlp`` (ratio)."""
        config = self.config
        widths = [Width("embed", tuple(float(size) for size in config.embed_dims))]
        for j in range(config.depths[-1]):
            widths.append(Width(f"layer{j}.heads", tuple(float(count) for count in config.heads), stage=0, block=j))
            widths.append(Width(f"layer{j}.mlp", config.mlp_ratios, stage=0, block=j))
        return SearchSpace((Stage(config.depths[-1], config.depths),), tuple(widths))

    def autoformer_spec(
        self, layer_num: int, embed_dim: int | list[int], num_heads: int | list[int], mlp_ratio: float | list[float]
    ) -> SubnetSpec:
        """The subnet that ``set_sample_config`` makes active with these keys.

        Args:
            layer_num: layers that run.
            embed_dim: embedding width; of each layer, all the same, if it is a list.
            num_heads: heads of each layer that runs, or one number for all.
            mlp_ratio: the same for its MLP.

        Raises:
            IllegalSubnetError: for a value outside the space, or a wrong number of them.
        """
        embeds = set(embed_dim) if isinstance(embed_dim, list) else {embed_dim}
        if len(embeds) != 1:
            raise IllegalSubnetError(f"embed_dim {embed_dim} must be one width: it runs through all layers")
        ratios = {"embed": float(embeds.pop())}
        per_layer = zip(
            per_entry("num_heads", num_heads, layer_num), per_entry("mlp_ratio", mlp_ratio, layer_num), strict=True
        )
        for j, (heads, mlp) in enumerate(per_layer):
            ratios |= {f"layer{j}.heads": float(heads), f"layer{j}.mlp": float(mlp)}
        return self.space.spec((layer_num,), ratios)

    def geometry(self, spec: SubnetSpec) -> Geometry:
        """See `ElasticNetwork.geometry`."""
        self.space.validate(spec)
        config, ratios = self.config, dict(spec.widths)
        embed = int(ratios["embed"])
        slices = {"patch_embed_super.proj": (embed, 3), "cls_token": (embed, 1)}
        if config.abs_pos:
            slices["pos_embed"] = (embed, self.tokens)
        for j in spec.keep[0]:
            heads = int(ratios[f"layer{j}.heads"]) * config.head_width
            neurons = int(embed * ratios[f"layer{j}.mlp"])
            slices |= {
                f"blocks.{j}.attn_layer_norm": (embed, embed),
                f"blocks.{j}.attn.qkv": (3 * heads, embed),
                f"blocks.{j}.attn.proj": (embed, heads),
                f"blocks.{j}.ffn_layer_norm": (embed, embed),
                f"blocks.{j}.fc1": (neurons, embed),
                f"blocks.{j}.fc2": (embed, neurons),
            }
        slices |= {"norm": (embed, embed), "head": (config.classes, embed)}
        return Geometry({"blocks": spec.keep[0]}, slices, {})

    def forward(self, x: Tensor) -> Tensor:
        """Images (rows, 3, image size, image size), float32, to logits (rows, classes)."""
        patches = self.patch_embed_super(x)
        index = torch.arange(self.tokens, device=x.device)
        token = self.cls_token(index[:1]).expand(patches.size(0), -1, -1)
        tokens = torch.cat((token, patches), 1)
        if self.config.abs_pos:
            tokens = tokens + self.pos_embed(index)
        tokens, _ = self.blocks((tokens, self._lines(tokens)))
        seen = self.norm(tokens[:, 1:]).mean(1) if self.config.gp else self.norm(tokens[:, 0])
        logits: Tensor = self.head(seen)
        return logits

    def _lines(self, like: Tensor) -> Lines | None:
        if not self.config.relative_position:
            return None
        return lines_of(self.config.side, self.config.max_relative_position, like)


def _initialise(module: nn.Module) -> None:
    """As AutoFormer is initialised."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.trunc_normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
    if isinstance(module, RelativePosition):
        for table in module.parameters():
            nn.init.trunc_normal_(table, std=0.02)


@register("autoformer", AutoFormerConfig)
def autoformer(config: AutoFormerConfig) -> AutoFormer:
    """Build AutoFormer."""
    return AutoFormer(config)
