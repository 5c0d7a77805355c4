"""Import AutoFormer's supernets: the published ones, and others whose search space is given.

A checkpoint's shapes say how large its network is, but not which subnets were trained: of the published supernets that
is known by their size, of others a ``config.json`` beside the checkpoint says it. Two options of the training script
leave no trace in the weights either, ``change_qkv`` and ``gp``: they are taken from that file, else from the arguments
that the script stored in the checkpoint, else they are on, as in all published supernets.
"""

from collections.abc import Iterable, Iterator, Mapping
from math import isqrt
from typing import Any, ClassVar, Final

import msgspec
import torch
from torch import Tensor

from superserve.errors import CheckpointError, ConfigError
from superserve.model_folder import ModelConfig
from superserve.subnet import SubnetSpec
from superserve.supernet.importing.checkpoint import Picker
from superserve.supernet.importing.family import Family, Serving, Task
from superserve.supernet.importing.images import image_config
from superserve.supernet.zoo.autoformer import AutoFormer, AutoFormerConfig

_RELEASE: Final = "https://github.com/silent-chen/AutoFormer-model-zoo/releases/download/v1.0/"

#: All of AutoFormer's heads are this wide.
_HEAD_WIDTH: Final = 64

#: Tensors that the network has in another shape.
_CLASS: Final = "cls_token"
_POSITIONS: Final = "pos_embed"

_PATCHES: Final = "patch_embed_super.proj.weight"
_DISTANCES: Final = "blocks.0.attn.rel_pos_embed_k.embeddings_table_v"


class Choices(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A search space in the words of AutoFormer's configuration files."""

    embed_dim: tuple[int, ...]
    num_heads: tuple[int, ...]
    mlp_ratio: tuple[float, ...]
    depth: tuple[int, ...]


#: By stored embedding width and number of layers, from AutoFormer's ``experiments/supernet``.
_PUBLISHED: Final[Mapping[tuple[int, int], Choices]] = {
    (256, 14): Choices(embed_dim=(192, 216, 240), num_heads=(3, 4), mlp_ratio=(3.5, 4.0), depth=(12, 13, 14)),
    (448, 14): Choices(embed_dim=(320, 384, 448), num_heads=(5, 6, 7), mlp_ratio=(3.0, 3.5, 4.0), depth=(12, 13, 14)),
    (640, 16): Choices(embed_dim=(528, 576, 624), num_heads=(9, 10), mlp_ratio=(3.0, 3.5, 4.0), depth=(14, 15, 16)),
}


class AutoFormerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What ``config.json`` beside a checkpoint may say; other keys are left to others."""

    change_qkv: bool = True
    gp: bool = True
    scale: bool = False
    input_size: int = 224
    """Height and width of images; where positions are stored, they settle it."""
    num_heads: int | None = None
    """Heads of the whole network; None means that they are 64 wide."""
    search_space: Choices | None = None


class AutoFormerArch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A subnet as ``set_sample_config`` takes it; a scalar stands for all layers."""

    layer_num: int
    embed_dim: int | list[int]
    num_heads: int | list[int]
    mlp_ratio: float | list[float]


class AutoFormerImporter(Family[AutoFormerConfig, AutoFormer]):
    """See `Family`."""

    name = "autoformer"
    harmless = ()
    urls: ClassVar[Mapping[str, Mapping[str, str]]] = {
        size: {f"supernet-{size}.pth": f"{_RELEASE}supernet-{size}.pth"} for size in ("tiny", "small", "base")
    }

    def architecture(self, picker: Picker) -> AutoFormerConfig:
        """Sizes from the checkpoint's shapes, the rest as the module says."""
        try:
            settings = msgspec.convert(picker.settings, AutoFormerSettings)
        except msgspec.ValidationError as error:
            raise CheckpointError(f"config.json of the checkpoint, or its arguments: {error}") from None
        width, channels, patch, _ = picker.shape([_PATCHES], 4)
        if channels != 3:
            raise CheckpointError(f"{_PATCHES!r} takes {channels} channels: only networks for colour images are served")
        space = self._space(picker, settings, width)
        fields = {
            "classes": picker.shape(["head.weight"], 2)[0],
            "image_size": self._image_size(picker, patch, settings.input_size),
            "patch": patch,
            "width": width,
            "embed_dims": space.embed_dim,
            "heads": space.num_heads,
            "mlp_ratios": space.mlp_ratio,
            "depths": space.depth,
            "change_qkv": settings.change_qkv,
            "relative_position": picker.holds(_DISTANCES),
            "abs_pos": picker.holds(_POSITIONS),
            "gp": settings.gp,
            "scale": settings.scale,
        }
        if picker.holds(_DISTANCES):
            fields["max_relative_position"] = picker.shape([_DISTANCES], 2)[0] // 2 - 1
        try:
            return msgspec.convert(fields, AutoFormerConfig)
        except msgspec.ValidationError as error:
            raise CheckpointError(f"search space and shapes of the checkpoint do not fit: {error}") from None

    def network(self, architecture: AutoFormerConfig) -> AutoFormer:
        """See `Family.network`."""
        return AutoFormer(architecture)

    def names(self, network: AutoFormer) -> Iterator[tuple[str, Iterable[str]]]:
        """See `Family.names`; of the tensors that are the same there."""
        for name in network.state_dict():
            if name.split(".")[0] not in {_CLASS, _POSITIONS} and ".qkv." not in name:
                yield name, (name,)

    def weights(self, network: AutoFormer, picker: Picker) -> dict[str, Tensor]:
        """See `Family.weights`: class token and positions lose a dimension, the fused projections are reordered."""
        config, weights = network.config, super().weights(network, picker)
        weights[f"{_CLASS}.weight"] = picker.take([_CLASS], (1, 1, config.width))[0]
        if config.abs_pos:
            weights[f"{_POSITIONS}.weight"] = picker.take([_POSITIONS], (1, network.tokens, config.width))[0]
        for number in range(config.depths[-1]):
            name = f"blocks.{number}.attn.qkv"
            weight = picker.take([f"{name}.weight"], (3 * config.width, config.width))
            bias = picker.take([f"{name}.bias"], (3 * config.width,))
            weights[f"{name}.weight"] = head_by_head(weight, config)
            weights[f"{name}.biases"] = biases_by_heads(bias, config)
        return weights

    def spec(self, network: AutoFormer, arch: Mapping[str, Any]) -> SubnetSpec:
        """See `Family.spec`."""
        words = msgspec.convert(arch, AutoFormerArch)
        return network.autoformer_spec(words.layer_num, words.embed_dim, words.num_heads, words.mlp_ratio)

    def config(self, architecture: AutoFormerConfig, task: Task, serving: Serving) -> ModelConfig:
        """See `Family.config`."""
        if serving.image_size not in {None, architecture.image_size}:
            raise ConfigError(
                f"image_size {serving.image_size}: the checkpoint takes images of {architecture.image_size} pixels only"
            )
        serving = msgspec.structs.replace(serving, image_size=architecture.image_size)
        return image_config(self.name, architecture, architecture.classes, task, serving)

    @staticmethod
    def _space(picker: Picker, settings: AutoFormerSettings, width: int) -> Choices:
        """Which subnets were trained, checked against the checkpoint's shapes."""
        layers, neurons = picker.numbered("blocks."), picker.shape(["blocks.0.fc1.weight"], 2)[0]
        space = settings.search_space or _PUBLISHED.get((width, layers))
        if space is None:
            raise CheckpointError(
                f"{layers} layers of width {width} are none of the published supernets, and nothing says which subnets "
                "were trained: put the checkpoint into a folder with a config.json that has `search_space`, an object "
                "with lists `embed_dim`, `num_heads`, `mlp_ratio` and `depth`, and give that with --folder"
            )
        whole = {
            "num_heads": settings.num_heads or width // _HEAD_WIDTH,
            "mlp_ratio": neurons / width,
            "depth": layers,
        }
        for key, size in whole.items():
            choices = getattr(space, key)
            if not choices or choices[-1] != size:
                raise CheckpointError(
                    f"search_space: {key} {list(choices)} must end with {size:g}, that of the whole network (whose "
                    f"heads are {_HEAD_WIDTH} wide unless config.json gives its `num_heads`)"
                )
        return space

    @staticmethod
    def _image_size(picker: Picker, patch: int, otherwise: int) -> int:
        if not picker.holds(_POSITIONS):
            return otherwise
        patches = picker.shape([_POSITIONS], 3)[1] - 1
        if isqrt(patches) ** 2 != patches:
            raise CheckpointError(f"{_POSITIONS!r} is for {patches} patches: only square images are served")
        return isqrt(patches) * patch


def head_by_head(weight: Tensor, config: AutoFormerConfig) -> Tensor:
    """The rows of a fused projection in the order of `Projection`: per head its query, key and value.

    AutoFormer stores them in turns with ``change_qkv`` (row 3 * i + part), else one part after the other.

    Args:
        weight: (3 * width, width) as AutoFormer has it.
        config: of the network.
    """
    heads, channels, width = config.heads[-1], config.head_width, config.width
    if config.change_qkv:
        parts = weight.view(heads, channels, 3, width).transpose(1, 2)
    else:
        parts = weight.view(3, heads, channels, width).transpose(0, 1)
    return parts.reshape(3 * width, width)


def biases_by_heads(bias: Tensor, config: AutoFormerConfig) -> Tensor:
    """The biases of a fused projection for each number of heads, in the order of its rows; the rest is zero.

    With n heads, AutoFormer adds the first n * head width biases to all queries, the next ones to all keys, and the
    next to all values, whatever the order of the weight's rows.

    Args:
        bias: (3 * width,) as AutoFormer has it.
        config: of the network.

    Returns:
        (choices of the number of heads, 3 * width).
    """
    channels = config.head_width
    biases = torch.zeros(len(config.heads), 3 * config.width)
    for row, heads in zip(biases, config.heads, strict=True):
        used = 3 * heads * channels
        row[:used] = bias[:used].view(3, heads, channels).transpose(0, 1).flatten()
    return biases
