"""What every supernet architecture offers, and the supernet as a model folder holds it."""

import copy
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from superserve.model_folder import Front, ModelConfig
from superserve.subnet import SearchSpace, SubnetSpec
from superserve.supernet.operators import Geometry, NormStatistics, Statistics


class ElasticNetwork(nn.Module):
    """A weight-shared network built from the operators of ``operators.py``.

    A family subclasses this, says what its search space is and what each subnet means for each operator, and writes
    an ordinary ``forward``. Everything else (actuation, extraction, calibration, storage) follows from that.
    """

    forward: Callable[..., Tensor]
    """Run the active subnet on the network's inputs, in the order of ``config.json``."""

    @property
    @abstractmethod
    def space(self) -> SearchSpace:
        """The elastic dimensions and their values."""

    @abstractmethod
    def geometry(self, spec: SubnetSpec) -> Geometry:
        """What a subnet means for each operator.

        Raises:
            IllegalSubnetError: if the subnet lies outside the space.
        """


@dataclass(frozen=True)
class Supernet:
    """A network with the statistics of its front: what a model folder holds, in memory."""

    config: ModelConfig
    front: Front
    network: ElasticNetwork
    statistics: Mapping[str, Statistics]
    """Statistics of each subnet of the front, by its id."""

    def to(self, device: str) -> "Supernet":
        """A copy in a device's memory."""
        statistics = {
            subnet: {
                name: NormStatistics(*(tensor.to(device) for tensor in found.single())) for name, found in mine.items()
            }
            for subnet, mine in self.statistics.items()
        }
        return Supernet(self.config, self.front, copy.deepcopy(self.network).to(device), statistics)
