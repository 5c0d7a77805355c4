"""What an importer must know about its family."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import msgspec
import torch
from torch import Tensor

from superserve.model_folder import ModelConfig
from superserve.subnet import SubnetSpec
from superserve.supernet.importing.checkpoint import Picker
from superserve.supernet.network import ElasticNetwork


class Serving(msgspec.Struct, frozen=True, kw_only=True):
    """How the imported model is to be served."""

    name: str
    labels: tuple[str, ...] = ()
    """Names of the classes; empty means the checkpoint's own, or their numbers."""
    image_size: int | None = None
    """Height and width of images; None means those that the network is for, 224 if it takes any."""
    pixels: str = "uint8"
    """``uint8``: images (height, width, 3) of 0..255; ``float32``: (3, height, width) of 0..1."""
    tokens: int = 128
    """Length of texts, padded by the client."""
    token_types: bool | None = None
    """Whether texts come with segment ids; None asks the checkpoint whether its task is about pairs."""


class Task(NamedTuple):
    """What a checkpoint folder's own ``config.json`` says about its task, where it has one."""

    name: str = ""
    labels: tuple[str, ...] = ()
    pairs: bool = False
    """Whether the model was trained on pairs of texts, and so needs segment ids."""


C = TypeVar("C", bound=msgspec.Struct)
N = TypeVar("N", bound=ElasticNetwork)


class Family(ABC, Generic[C, N]):
    """The importer of one family, of architecture ``C`` and network ``N``."""

    name: ClassVar[str]
    urls: ClassVar[Mapping[str, Mapping[str, str]]]
    """Public weights: variant to file name to address."""
    harmless: ClassVar[tuple[str, ...]]
    """Endings of names of tensors that checkpoints hold and the network does not need."""

    def read(self, picker: Picker) -> tuple[C, N]:
        """The architecture, and its network with the checkpoint's weights, frozen; the picker says what was left.

        Raises:
            CheckpointError: naming the tensor that is missing, of another shape or of no use.
        """
        picker.family = self.name
        architecture = self.architecture(picker)
        with torch.device("meta"):
            network = self.network(architecture)
        weights = self.weights(network, picker)
        assert weights.keys() == network.state_dict().keys(), f"{self.name}: names are not those of the network"
        picker.finish(self.harmless)
        network.load_state_dict(weights, assign=True)
        network.requires_grad_(requires_grad=False).eval()
        return architecture, network

    @abstractmethod
    def architecture(self, picker: Picker) -> C:
        """What the checkpoint's shapes (and its folder's settings) imply.

        Raises:
            CheckpointError: if they imply none of this family.
        """

    @abstractmethod
    def network(self, architecture: C) -> N:
        """The network of an architecture."""

    def weights(self, network: N, picker: Picker) -> dict[str, Tensor]:
        """What the network (which has no memory yet) is to hold: by default the tensors of its `names`.

        Raises:
            CheckpointError: as `Picker.take`.
        """
        shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
        return {ours: picker.take(theirs, shapes[ours]) for ours, theirs in self.names(network)}

    @abstractmethod
    def names(self, network: N) -> Iterable[tuple[str, Iterable[str]]]:
        """For each tensor of the network, the names it may have in a checkpoint, today's first."""

    @abstractmethod
    def spec(self, network: N, arch: Mapping[str, Any]) -> SubnetSpec:
        """A subnet in the words of the family's own code.

        Raises:
            IllegalSubnetError: if it is not in the space.
            msgspec.ValidationError: if a word is missing or unknown.
        """

    @abstractmethod
    def config(self, architecture: C, task: Task, serving: Serving) -> ModelConfig:
        """``config.json`` of the model folder.

        Raises:
            ConfigError: if it cannot be served as ``serving`` wants.
        """
