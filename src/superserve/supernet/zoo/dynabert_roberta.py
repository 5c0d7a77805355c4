"""DynaBERT in RoBERTa's layout: a RoBERTa text classifier with elastic width and depth.

Source: Hou et al., "DynaBERT", NeurIPS 2020, which trains RoBERTa like BERT (``--model_type roberta`` of its code), so
that subnets are DynaBERT's; and Liu et al., "RoBERTa", 2019, as Hugging Face has it. What differs from BERT: positions
are numbered from the padding token's number on and leave out padding, and the classifier has a hidden layer of its own
in place of the pooler. Parameters have the names of Hugging Face's ``RobertaForSequenceClassification``.

Hugging Face's library of DynaBERT's time (2.1.1) numbered padding too. For texts that are padded at their ends, as
DynaBERT's code makes them, that is the same.
"""

from typing import Final

import torch
from torch import Tensor, nn

from superserve.supernet.zoo.dynabert import DynaBertConfig, ElasticEncoder, Embeddings, Encoder, Pooler
from superserve.supernet.zoo.registry import register

#: The padding token's number in RoBERTa's vocabulary.
PADDING: Final = 1


class DynaRobertaConfig(DynaBertConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``architecture`` of ``config.json``; the defaults are RoBERTa-base with DynaBERT's widths and depths."""

    vocabulary: int = 50265
    token_types: int = 1
    norm_eps: float = 1e-5
    padding_token: int = PADDING

    @property
    def places(self) -> int:
        """Rows of the table of positions: those up to the padding token's number are no token's."""
        return self.padding_token + 1 + self.positions


class RobertaEmbeddings(Embeddings):
    """Token, position and token type embeddings, added and normalised."""

    def _positions(self, tokens: Tensor) -> Tensor:
        """(rows, tokens, hidden): of the n-th token that is no padding, position ``padding + n``."""
        padding = self.word_embeddings.padding_idx
        assert padding is not None
        text = tokens.ne(padding)
        places: Tensor = self.position_embeddings(text.cumsum(1) * text + padding)
        return places


class Roberta(nn.Module):
    """Embeddings and encoder."""

    def __init__(self, config: DynaRobertaConfig) -> None:
        super().__init__()
        self.embeddings = RobertaEmbeddings(config)
        self.encoder = Encoder(config)

    def forward(self, tokens: Tensor, attention: Tensor, types: Tensor) -> Tensor:
        """(rows, tokens) int64 each to (rows, tokens, hidden)."""
        encoded: Tensor = self.encoder(self.embeddings(tokens, types), attention)
        return encoded


class ClassificationHead(Pooler):
    """A linear layer and tanh on the first token, and a linear layer to the classes."""

    def __init__(self, hidden: int, classes: int) -> None:
        super().__init__(hidden)
        self.out_proj = nn.Linear(hidden, classes)

    def forward(self, hidden: Tensor) -> Tensor:
        """(rows, tokens, hidden) to (rows, classes)."""
        logits: Tensor = self.out_proj(super().forward(hidden))
        return logits


class DynaRoberta(ElasticEncoder):
    """A text classifier: RoBERTa and its classification head."""

    layers = "roberta.encoder.layer"

    def __init__(self, config: DynaRobertaConfig) -> None:
        super().__init__(config)
        self.roberta = Roberta(config)
        self.classifier = ClassificationHead(config.hidden, config.classes)
        self.apply(self._initialise)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Token ids, padded with the padding token, mask (1 for text, 0 for padding) and, rarely, segment.

        (rows, tokens) int64 each; returns logits (rows, classes), float32.
        """
        types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        logits: Tensor = self.classifier(self.roberta(input_ids, attention_mask, types))
        return logits


@register("dynabert_roberta", DynaRobertaConfig)
def dynabert_roberta(config: DynaRobertaConfig) -> DynaRoberta:
    """Build DynaBERT in RoBERTa's layout."""
    return DynaRoberta(config)
