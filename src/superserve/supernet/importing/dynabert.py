"""Import DynaBERT checkpoints: a BERT classifier whose heads and neurons were reordered before training."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Final, TypeVar

import msgspec

from superserve.errors import CheckpointError, ConfigError
from superserve.model_folder import FORMAT, ModelConfig, TensorSpec
from superserve.subnet import SubnetSpec
from superserve.supernet.importing.checkpoint import Picker
from superserve.supernet.importing.family import Family, Serving, Task
from superserve.supernet.importing.images import class_labels
from superserve.supernet.preprocess import NoPreprocessing
from superserve.supernet.zoo.dynabert import DynaBert, DynaBertConfig, ElasticEncoder

#: Names of DynaBertConfig's fields in Hugging Face's ``config.json``.
_FIELDS: Final = {
    "vocab_size": "vocabulary",
    "hidden_size": "hidden",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "intermediate_size": "neurons",
    "type_vocab_size": "token_types",
    "layer_norm_eps": "norm_eps",
    "hidden_act": "activation",
    "pad_token_id": "padding_token",
}

C = TypeVar("C", bound=DynaBertConfig)
N = TypeVar("N", bound=ElasticEncoder)


class DynaBertArch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A subnet as DynaBERT's code names it."""

    depth_mult: float
    width_mult: float


class EncoderImporter(Family[C, N]):
    """See `Family`; of text classifiers that differ in what stands around the encoder."""

    sizes: type[C]
    """The family's architecture."""
    model: ClassVar[str]
    """What the names of all tensors but the classifier's begin with."""
    classifier: ClassVar[str]
    """The name of the layer that gives the logits."""
    segments: ClassVar[bool]
    """Whether the project's code tells the texts of a pair apart by segment ids."""

    def architecture(self, picker: Picker) -> C:
        """Sizes from the folder's ``config.json`` where there is one, else from the checkpoint's shapes."""
        fields: dict[str, Any] = {
            ours: picker.settings[theirs] for theirs, ours in _FIELDS.items() if picker.settings.get(theirs) is not None
        }
        fields |= self.shapes(picker)
        if "heads" not in fields and fields["hidden"] % 64 == 0:
            # All of BERT's heads are 64 wide; a folder of its own says otherwise in config.json.
            fields["heads"] = fields["hidden"] // 64
        try:
            config = msgspec.convert(fields, self.sizes)
        except msgspec.ValidationError as error:
            raise CheckpointError(f"config.json of the checkpoint: {error}") from None
        if config.classes < 2:
            raise CheckpointError("the checkpoint is a regression (one output): only classifiers can be served")
        return config

    def names(self, network: N) -> Iterator[tuple[str, Iterable[str]]]:
        """See `Family.names`."""
        for name in network.state_dict():
            yield name, self._spellings(name)

    def spec(self, network: N, arch: Mapping[str, Any]) -> SubnetSpec:
        """See `Family.spec`."""
        words = msgspec.convert(arch, DynaBertArch)
        return network.dynabert_spec(words.depth_mult, words.width_mult)

    def config(self, architecture: C, task: Task, serving: Serving) -> ModelConfig:
        """See `Family.config`."""
        if serving.tokens > architecture.positions:
            raise ConfigError(f"tokens {serving.tokens} is more than the {architecture.positions} of the checkpoint")
        segments = self.segments and task.pairs if serving.token_types is None else serving.token_types
        limits = {"input_ids": architecture.vocabulary, "attention_mask": 2}
        if segments:
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

    def shapes(self, picker: Picker) -> dict[str, Any]:
        """Sizes that the checkpoint's own tensors settle."""
        embeddings = f"{self.model}.embeddings"
        vocabulary, hidden = picker.shape(self._spellings(f"{embeddings}.word_embeddings.weight"), 2)
        (neurons,) = picker.shape(self._spellings(f"{self.model}.encoder.layer.0.intermediate.dense.bias"), 1)
        (classes,) = picker.shape(
            (f"{self.classifier}.bias",), 1, fix="the encoder alone, which has to be trained to classify first"
        )
        places, _ = picker.shape(self._spellings(f"{embeddings}.position_embeddings.weight"), 2)
        return {
            "vocabulary": vocabulary,
            "hidden": hidden,
            "neurons": neurons,
            "classes": classes,
            "layers": picker.numbered("encoder.layer."),
            "positions": places,
            "token_types": picker.shape(self._spellings(f"{embeddings}.token_type_embeddings.weight"), 2)[0],
        }

    def _spellings(self, name: str) -> Iterator[str]:
        """Today's name; TensorFlow's words for normalisation; both without the model's prefix."""
        for full in (name, name.removeprefix(f"{self.model}.")):
            yield full
            if "LayerNorm." in full:
                yield full.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


class DynaBertImporter(EncoderImporter[DynaBertConfig, DynaBert]):
    """See `Family`."""

    name = "dynabert"
    sizes = DynaBertConfig
    model = "bert"
    classifier = "classifier"
    segments = True
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

    def network(self, architecture: DynaBertConfig) -> DynaBert:
        """See `Family.network`."""
        return DynaBert(architecture)
