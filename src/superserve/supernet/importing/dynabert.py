"""Import DynaBERT checkpoints: a BERT classifier whose heads and neurons were reordered before training."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Final

import msgspec

from superserve.errors import CheckpointError, ConfigError
from superserve.model_folder import FORMAT, ModelConfig, TensorSpec
from superserve.subnet import SubnetSpec
from superserve.supernet.importing.checkpoint import Picker
from superserve.supernet.importing.family import Family, Serving, Task
from superserve.supernet.importing.images import class_labels
from superserve.supernet.preprocess import NoPreprocessing
from superserve.supernet.zoo.dynabert import DynaBert, DynaBertConfig

#: Names of DynaBertConfig's fields in Hugging Face's ``config.json``.
_FIELDS: Final = {
    "vocab_size": "vocabulary",
    "hidden_size": "hidden",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "intermediate_size": "neurons",
    "max_position_embeddings": "positions",
    "type_vocab_size": "token_types",
    "layer_norm_eps": "norm_eps",
    "hidden_act": "activation",
    "pad_token_id": "padding_token",
}


class DynaBertArch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A subnet as DynaBERT's code names it."""

    depth_mult: float
    width_mult: float


class DynaBertImporter(Family[DynaBertConfig, DynaBert]):
    """See `Family`."""

    name = "dynabert"
    #: An index that old files store, and the head of pretraining.
    harmless = (
        "position_ids",
        "cls.predictions.bias",
        "cls.predictions.transform.dense.weight",
        "cls.predictions.transform.dense.bias",
        "cls.predictions.transform.LayerNorm.weight",
        "cls.predictions.transform.LayerNorm.bias",
        "cls.predictions.decoder.weight",
        "cls.predictions.decoder.bias",
        "cls.seq_relationship.weight",
        "cls.seq_relationship.bias",
    )
    urls: ClassVar[Mapping[str, Mapping[str, str]]] = {
        task: {
            file: f"https://huggingface.co/huawei-noah/DynaBERT_{task}/resolve/main/{file}"
            for file in ("config.json", "pytorch_model.bin")
        }
        for task in ("MNLI", "SST-2")
    }

    def architecture(self, picker: Picker) -> DynaBertConfig:
        """Sizes from the folder's ``config.json`` where there is one, else from the checkpoint's shapes."""
        fields = {
            ours: picker.settings[theirs] for theirs, ours in _FIELDS.items() if picker.settings.get(theirs) is not None
        }
        fields |= self._shapes(picker)
        if "heads" not in fields and fields["hidden"] % 64 == 0:
            # All of BERT's heads are 64 wide; a folder of its own says otherwise in config.json.
            fields["heads"] = fields["hidden"] // 64
        try:
            config = msgspec.convert(fields, DynaBertConfig)
        except msgspec.ValidationError as error:
            raise CheckpointError(f"config.json of the checkpoint: {error}") from None
        if config.classes < 2:
            raise CheckpointError("the checkpoint is a regression (one output): only classifiers can be served")
        return config

    def network(self, architecture: DynaBertConfig) -> DynaBert:
        """See `Family.network`."""
        return DynaBert(architecture)

    def names(self, network: DynaBert) -> Iterator[tuple[str, Iterable[str]]]:
        """See `Family.names`."""
        for name in network.state_dict():
            yield name, _spellings(name)

    def spec(self, network: DynaBert, arch: Mapping[str, Any]) -> SubnetSpec:
        """See `Family.spec`."""
        words = msgspec.convert(arch, DynaBertArch)
        return network.dynabert_spec(words.depth_mult, words.width_mult)

    def config(self, architecture: DynaBertConfig, task: Task, serving: Serving) -> ModelConfig:
        """See `Family.config`."""
        if serving.tokens > architecture.positions:
            raise ConfigError(f"tokens {serving.tokens} is more than the {architecture.positions} of the checkpoint")
        pairs = task.pairs if serving.token_types is None else serving.token_types
        limits = {"input_ids": architecture.vocabulary, "attention_mask": 2}
        if pairs:
            limits["token_type_ids"] = architecture.token_types
        return ModelConfig(
            format=FORMAT,
            name=serving.name,
            family=self.name,
            architecture=msgspec.to_builtins(architecture),
            task="text-classification",
            dataset=f"GLUE {task.name}" if task.name else "texts",
            labels=class_labels(serving.labels or task.labels, architecture.classes),
            inputs=tuple(
                TensorSpec(name, "INT64", (-1, serving.tokens), range=(0, count - 1)) for name, count in limits.items()
            ),
            outputs=(TensorSpec("logits", "FP32", (-1, architecture.classes)),),
            preprocessing=msgspec.to_builtins(NoPreprocessing()),
        )

    def _shapes(self, picker: Picker) -> dict[str, int]:
        """Sizes that the checkpoint's own tensors settle."""
        embeddings = "bert.embeddings"
        vocabulary, hidden = picker.shape(_spellings(f"{embeddings}.word_embeddings.weight"), 2)
        (neurons,) = picker.shape(_spellings("bert.encoder.layer.0.intermediate.dense.bias"), 1)
        (classes,) = picker.shape(_spellings("classifier.bias"), 1)
        return {
            "vocabulary": vocabulary,
            "hidden": hidden,
            "neurons": neurons,
            "classes": classes,
            "layers": picker.numbered("encoder.layer."),
            "positions": picker.shape(_spellings(f"{embeddings}.position_embeddings.weight"), 2)[0],
            "token_types": picker.shape(_spellings(f"{embeddings}.token_type_embeddings.weight"), 2)[0],
        }


def _spellings(name: str) -> Iterator[str]:
    """Today's name; TensorFlow's words for normalisation; both without the model's prefix."""
    for full in (name, name.removeprefix("bert.")):
        yield full
        if "LayerNorm." in full:
            yield full.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
