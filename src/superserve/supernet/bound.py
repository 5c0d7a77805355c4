"""One subnet as a module of its own: what is traced, compiled, and given its constants by name."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from superserve.subnet import SubnetSpec
from superserve.supernet.actuator import SmallKernels, apply, bind
from superserve.supernet.engine import run_network
from superserve.supernet.network import ElasticNetwork, Supernet
from superserve.supernet.operators import NormStatistics, SlicedKernelConv2d, Statistics
from superserve.supernet.preprocess import Preprocessor, parse_preprocessing
from superserve.supernet.reduced import TORCH_DTYPES


class BoundSubnet(nn.Module):
    """Runs one subnet of a network, from request tensors to logits; shares every tensor with the network.

    Slices are taken inside ``forward``, so that a trace of it reads the shared parameters whole, under their own names,
    and holds only offsets and sizes of its own. Statistics are buffers, and so are computed small kernels.

    Args:
        network: the weight-shared network.
        spec: the subnet.
        statistics: of the subnet.
        preprocess: what turns request tensors into the network's arguments.
        small_kernels: as for `bind`; computed ones are added.
        dtype: what the network's weights are in.
    """

    def __init__(
        self,
        network: ElasticNetwork,
        spec: SubnetSpec,
        statistics: Statistics,
        preprocess: Preprocessor,
        small_kernels: SmallKernels,
        *,
        dtype: str = "float32",
    ) -> None:
        super().__init__()
        self.network = network
        self._spec = spec
        self._preprocess = preprocess
        self._dtype = TORCH_DTYPES[dtype]
        self._norms = tuple(statistics)
        for number, name in enumerate(self._norms):
            self.register_buffer(f"mean_{number}", statistics[name].mean, persistent=False)
            self.register_buffer(f"variance_{number}", statistics[name].variance, persistent=False)
        self._kernels = tuple(_computed_kernels(network, spec))
        with torch.inference_mode():
            bind(network, spec, statistics, small_kernels)
        for number, key in enumerate(self._kernels):
            self.register_buffer(f"kernel_{number}", small_kernels[key], persistent=False)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Tensors as ``inputs`` of ``config.json`` says to logits, float32."""
        statistics = {
            name: NormStatistics(self.get_buffer(f"mean_{number}"), self.get_buffer(f"variance_{number}"))
            for number, name in enumerate(self._norms)
        }
        kernels = {key: self.get_buffer(f"kernel_{number}") for number, key in enumerate(self._kernels)}
        apply(bind(self.network, self._spec, statistics, kernels))
        return run_network(self.network, self._preprocess, inputs, self._dtype)


def bound_subnets(
    supernet: Supernet,
    dtype: str = "float32",
    only: Sequence[int] | None = None,
    preprocess: Preprocessor | None = None,
) -> list[BoundSubnet]:
    """The subnets of a front (those of these indices), in its order.

    Args:
        supernet: with its weights in the dtype.
        dtype: of the network's weights.
        only: indices.
        preprocess: in place of what ``config.json`` says.
    """
    preprocess = preprocess or parse_preprocessing(supernet.config.preprocessing).build()
    kernels: SmallKernels = {}
    records = supernet.front.subnets
    chosen = range(len(records)) if only is None else only
    return [
        BoundSubnet(
            supernet.network,
            records[index].spec,
            supernet.statistics[records[index].id],
            preprocess,
            kernels,
            dtype=dtype,
        ).eval()
        for index in chosen
    ]


def _computed_kernels(network: ElasticNetwork, spec: SubnetSpec) -> Iterable[tuple[str, int]]:
    """Layer and size of the kernels that the subnet has made from larger ones."""
    for name, size in network.geometry(spec).kernels.items():
        layer = network.get_submodule(name)
        assert isinstance(layer, SlicedKernelConv2d)
        if size != layer.kernels[-1]:
            yield name, size
