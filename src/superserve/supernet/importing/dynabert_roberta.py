"""Import DynaBERT checkpoints in RoBERTa's layout."""

from collections.abc import Mapping
from typing import Any, ClassVar

from superserve.supernet.importing.checkpoint import Picker
from superserve.supernet.importing.dynabert import EncoderImporter
from superserve.supernet.zoo.dynabert_roberta import PADDING, DynaRoberta, DynaRobertaConfig


class DynaRobertaImporter(EncoderImporter[DynaRobertaConfig, DynaRoberta]):
    """See `Family`. No weights are published: the project's code makes them (``--model_type roberta``)."""

    name = "dynabert_roberta"
    sizes = DynaRobertaConfig
    model = "roberta"
    classifier = "classifier.out_proj"
    segments = False
    #: Indices that old files store, the pooler that old versions make and do not use, and the head of pretraining.
    harmless = (
        "position_ids",
        "embeddings.token_type_ids",
        "pooler.dense.weight",
        "pooler.dense.bias",
        "lm_head.bias",
        "lm_head.dense.weight",
        "lm_head.dense.bias",
        "lm_head.layer_norm.weight",
        "lm_head.layer_norm.bias",
        "lm_head.decoder.weight",
        "lm_head.decoder.bias",
    )
    urls: ClassVar[Mapping[str, Mapping[str, str]]] = {}

    def network(self, architecture: DynaRobertaConfig) -> DynaRoberta:
        """See `Family.network`."""
        return DynaRoberta(architecture)

    def shapes(self, picker: Picker) -> dict[str, Any]:
        """See `EncoderImporter.shapes`: positions are numbered from the one after the padding token's number."""
        found, padding = super().shapes(picker), picker.settings.get("pad_token_id")
        return found | {"positions": found["positions"] - 1 - (padding if isinstance(padding, int) else PADDING)}
