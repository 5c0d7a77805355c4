"""DynaBERT: a BERT text classifier with elastic width and depth.

Source: Hou et al., "DynaBERT", NeurIPS 2020, and its code (huawei-noah/Pretrained-Language-Model, ``DynaBERT``). One
width, shared by all layers, keeps the leading attention heads and the leading neurons of each MLP; a depth keeps
layers spread evenly (layer floor(i / depth)). Hidden size, embeddings, layer normalisations, pooler and classifier are
always whole. Parameters have the names of Hugging Face's ``BertForSequenceClassification``. Dropout is left out: the
network is for serving.
"""

from functools import cached_property
from itertools import pairwise
from typing import ClassVar, Final, Literal

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional

from superserve.subnet import SearchSpace, Stage, SubnetSpec, Width
from superserve.supernet.network import ElasticNetwork
from superserve.supernet.operators import Geometry, LayerSelect, SlicedLinear
from superserve.supernet.zoo.registry import register

State = tuple[Tensor, Tensor]
"""What goes from layer to layer: hidden states (rows, tokens, hidden) and attention mask (rows, 1, 1, tokens)."""

#: BERT's weights are drawn with this standard deviation, at this hidden size (``initializer_range`` of its config).
_INITIAL_STD: Final = 0.02
_BERT_HIDDEN: Final = 768


class DynaBertConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``architecture`` of ``config.json``; the defaults are BERT-base with DynaBERT's widths and depths."""

    classes: int
    vocabulary: int = 30522
    hidden: int = 768
    layers: int = 12
    heads: int = 12
    neurons: int = 3072
    """Of the MLP of each layer."""
    positions: int = 512
    """The longest text, in tokens."""
    token_types: int = 2
    norm_eps: float = 1e-12
    activation: Literal["gelu", "relu"] = "gelu"
    padding_token: int = 0
    width_ratios: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    depth_ratios: tuple[float, ...] = (0.5, 0.75, 1.0)

    def __post_init__(self) -> None:
        if min(self.classes, self.vocabulary, self.layers, self.neurons, self.positions, self.token_types) < 1:
            raise ValueError("every size must be positive")
        if not 0 <= self.padding_token < self.vocabulary:
            raise ValueError(f"padding_token {self.padding_token} must be below vocabulary {self.vocabulary}, from 0")
        if self.heads < 1 or self.hidden < 1 or self.hidden % self.heads:
            raise ValueError(f"hidden {self.hidden} must be a multiple of heads {self.heads}")
        for name in ("width_ratios", "depth_ratios"):
            ratios = getattr(self, name)
            if not ratios or ratios[0] <= 0 or any(a >= b for a, b in pairwise(ratios)) or ratios[-1] != 1:
                raise ValueError(f"{name} {ratios} must rise strictly from above 0 to 1")
        if any(round(self.heads * ratio) < 1 for ratio in self.width_ratios):
            raise ValueError(f"width_ratios {self.width_ratios} must keep at least one of {self.heads} heads")
        if any((self.layers * ratio) % 1 for ratio in self.depth_ratios):
            raise ValueError(f"depth_ratios {self.depth_ratios} must keep whole numbers of {self.layers} layers")

    @property
    def places(self) -> int:
        """Rows of the table of positions."""
        return self.positions


class Embeddings(nn.Module):
    """Token, position and token type embeddings, added and normalised."""

    def __init__(self, config: DynaBertConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocabulary, config.hidden, padding_idx=config.padding_token)
        self.position_embeddings = nn.Embedding(config.places, config.hidden)
        self.token_type_embeddings = nn.Embedding(config.token_types, config.hidden)
        self.LayerNorm = nn.LayerNorm(config.hidden, eps=config.norm_eps)

    def forward(self, tokens: Tensor, types: Tensor) -> Tensor:
        """(rows, tokens) int64 each to (rows, tokens, hidden)."""
        embedded = self.word_embeddings(tokens) + self.token_type_embeddings(types) + self._positions(tokens)
        normalised: Tensor = self.LayerNorm(embedded)
        return normalised

    def _positions(self, tokens: Tensor) -> Tensor:
        """What is added for where each token stands: (tokens, hidden), or the same per row."""
        return self.position_embeddings.weight[: tokens.size(1)]


class SelfAttention(nn.Module):
    """Attention of as many heads as query, key and value have outputs for."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.head_width = hidden // heads
        self.query = SlicedLinear(hidden, hidden)
        self.key = SlicedLinear(hidden, hidden)
        self.value = SlicedLinear(hidden, hidden)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """(rows, tokens, hidden) to (rows, tokens, active heads * head width)."""
        query, key, value = (self._heads(project(hidden)) for project in (self.query, self.key, self.value))
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return attended.transpose(1, 2).flatten(2)

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], -1, self.head_width).transpose(1, 2)


class Residual(nn.Module):
    """A linear layer back to the hidden size, added to the block's input and normalised."""

    def __init__(self, inputs: int, config: DynaBertConfig) -> None:
        super().__init__()
        self.dense = SlicedLinear(inputs, config.hidden)
        self.LayerNorm = nn.LayerNorm(config.hidden, eps=config.norm_eps)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        """(rows, tokens, active inputs) to (rows, tokens, hidden)."""
        normalised: Tensor = self.LayerNorm(self.dense(x) + residual)
        return normalised


class Attention(nn.Module):
    """Self-attention and its residual."""

    def __init__(self, config: DynaBertConfig) -> None:
        super().__init__()
        self.self = SelfAttention(config.hidden, config.heads)
        self.output = Residual(config.hidden, config)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """The shape of the hidden states stays."""
        attended: Tensor = self.output(self.self(hidden, mask), hidden)
        return attended


class Intermediate(nn.Module):
    """The first half of the MLP."""

    def __init__(self, config: DynaBertConfig) -> None:
        super().__init__()
        self.dense = SlicedLinear(config.hidden, config.neurons)
        self.activation = nn.GELU() if config.activation == "gelu" else nn.ReLU()

    def forward(self, hidden: Tensor) -> Tensor:
        """(rows, tokens, hidden) to (rows, tokens, active neurons)."""
        active: Tensor = self.activation(self.dense(hidden))
        return active


class Layer(nn.Module):
    """A transformer layer."""

    def __init__(self, config: DynaBertConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.intermediate = Intermediate(config)
        self.output = Residual(config.neurons, config)

    def forward(self, state: State) -> State:
        """The next hidden states, and the same mask."""
        hidden, mask = state
        hidden = self.attention(hidden, mask)
        return self.output(self.intermediate(hidden), hidden), mask


class Encoder(nn.Module):
    """The layers."""

    def __init__(self, config: DynaBertConfig) -> None:
        super().__init__()
        self.layer = LayerSelect(*(Layer(config) for _ in range(config.layers)))

    def forward(self, hidden: Tensor, attention: Tensor) -> Tensor:
        """Hidden states (rows, tokens, hidden), whose shape stays, and (rows, tokens) 1 for text, 0 for padding."""
        encoded: Tensor
        # As in the training code; no padding scores high enough to matter, and a row of padding stays finite.
        bias = (attention[:, None, None, :].to(hidden.dtype) - 1.0) * 10000.0
        encoded, _ = self.layer((hidden, bias))
        return encoded


class Pooler(nn.Module):
    """A linear layer and tanh on the first token."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden, hidden)

    def forward(self, hidden: Tensor) -> Tensor:
        """(rows, tokens, hidden) to (rows, hidden)."""
        pooled: Tensor = self.dense(hidden[:, 0]).tanh()
        return pooled


class Bert(nn.Module):
    """Embeddings, encoder and pooler."""

    def __init__(self, config: DynaBertConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        self.pooler = Pooler(config.hidden)

    def forward(self, tokens: Tensor, attention: Tensor, types: Tensor) -> Tensor:
        """(rows, tokens) int64 each to (rows, hidden)."""
        pooled: Tensor = self.pooler(self.encoder(self.embeddings(tokens, types), attention))
        return pooled


class ElasticEncoder(ElasticNetwork):
    """What a subnet keeps of an `Encoder`; a subclass has one, and what stands before and behind it."""

    layers: ClassVar[str]
    """The name of the encoder's layers."""

    def __init__(self, config: DynaBertConfig) -> None:
        super().__init__()
        self.config = config

    @cached_property
    def space(self) -> SearchSpace:
        """One stage of layers, spread; one width, ``width``, for all of them."""
        depths = tuple(round(self.config.layers * ratio) for ratio in self.config.depth_ratios)
        return SearchSpace((Stage(self.config.layers, depths, "spread"),), (Width("width", self.config.width_ratios),))

    def dynabert_spec(self, depth: float, width: float) -> SubnetSpec:
        """The subnet of ``depth_mult`` and ``width_mult``.

        Raises:
            IllegalSubnetError: if either is outside the space.
        """
        # A depth that is no whole number of layers is rounded like the training code does it, and then refused.
        return self.space.spec((round(depth * self.config.layers),), {"width": width})

    def geometry(self, spec: SubnetSpec) -> Geometry:
        """See `ElasticNetwork.geometry`."""
        self.space.validate(spec)
        config, ratio = self.config, spec.width("width")
        kept = round(config.heads * ratio)
        heads = kept * (config.hidden // config.heads)
        # The training code's own formula: a share of whole heads first.
        neurons = max(1, int(kept * 1.0 / config.heads * config.neurons))
        slices: dict[str, tuple[int, int]] = {}
        for block in spec.keep[0]:
            layer = f"{self.layers}.{block}"
            slices |= {f"{layer}.attention.self.{part}": (heads, config.hidden) for part in ("query", "key", "value")}
            slices[f"{layer}.attention.output.dense"] = (config.hidden, heads)
            slices[f"{layer}.intermediate.dense"] = (neurons, config.hidden)
            slices[f"{layer}.output.dense"] = (config.hidden, neurons)
        return Geometry({self.layers: spec.keep[0]}, slices, {})

    def _initialise(self, module: nn.Module) -> None:
        """As BERT is initialised, with a spread that fits the hidden size: torch's own embeddings hardly learn."""
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=_INITIAL_STD * (_BERT_HIDDEN / self.config.hidden) ** 0.5)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)


class DynaBert(ElasticEncoder):
    """A text classifier: BERT and a linear layer."""

    layers = "bert.encoder.layer"

    def __init__(self, config: DynaBertConfig) -> None:
        super().__init__(config)
        self.bert = Bert(config)
        self.classifier = nn.Linear(config.hidden, config.classes)
        self.apply(self._initialise)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Token ids, mask (1 for text, 0 for padding) and, for pairs of texts, segment; (rows, tokens) int64 each.

        Returns logits (rows, classes), float32.
        """
        types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        logits: Tensor = self.classifier(self.bert(input_ids, attention_mask, types))
        return logits


@register("dynabert", DynaBertConfig)
def dynabert(config: DynaBertConfig) -> DynaBert:
    """Build DynaBERT."""
    return DynaBert(config)
