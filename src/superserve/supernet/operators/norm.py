"""SubnetNorm: batch normalisation with statistics per subnet."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from superserve.supernet.operators.slot import Slot, owned

T = TypeVar("T")


class NormStatistics(NamedTuple):
    """Mean and biased variance per channel of one normalisation layer in one subnet, float32 (channels,)."""

    mean: Tensor
    variance: Tensor

    @property
    def nbytes(self) -> int:
        """Bytes that the set takes."""
        return self.mean.nbytes + self.variance.nbytes

    def single(self) -> "NormStatistics":
        """The set in float32: this one."""
        return self


@dataclass(frozen=True, slots=True, eq=False)
class HalfStatistics:
    """One set of statistics among others of its layer in half precision; widened when a forward needs it.

    Hundreds of subnets times dozens of layers make tens of thousands of sets: tensor objects for all of them would
    take half as much memory again as the statistics, in every worker. So a set is a tensor shared by all and a number.
    """

    group: Tensor
    """(sets, 2, channels) float16: mean and biased variance of each set."""
    number: int

    @property
    def mean(self) -> Tensor:
        """Mean per channel, float32 (channels,), computed anew."""
        return self.group[self.number, 0].float()

    @property
    def variance(self) -> Tensor:
        """Biased variance per channel, float32 (channels,), computed anew."""
        return self.group[self.number, 1].float()

    @property
    def nbytes(self) -> int:
        """Bytes that the set takes."""
        return self.group.nbytes // len(self.group)

    def single(self) -> NormStatistics:
        """The set in float32, computed anew."""
        return NormStatistics(*self.group[self.number].float().unbind())


Statistics = Mapping[str, NormStatistics | HalfStatistics]
"""Statistics of one subnet: name of the SubnetNorm to its set."""


class SlicedNorm(NamedTuple):
    """Leading scale and shift, as views, and the subnet's own statistics (None: those of the batch)."""

    scale: Tensor | None
    shift: Tensor | None
    statistics: NormStatistics | HalfStatistics | None


class NormSlice(Generic[T]):
    """A normalisation that runs its leading channels with the statistics of a subnet."""

    slot: Slot[T]

    @abstractmethod
    def bind(self, channels: int, statistics: NormStatistics | HalfStatistics | None) -> T:
        """What goes into the slot to run the leading ``channels`` with these statistics (None: of the batch)."""

    @abstractmethod
    def with_statistics(self, bound: T, statistics: NormStatistics | HalfStatistics) -> T:
        """What `bind` made without statistics, with these; views are shared, not made again."""

    @abstractmethod
    def extract(self, channels: int, statistics: NormStatistics | HalfStatistics) -> nn.Module:
        """The same part as a plain module with parameters and statistics of its own."""


class AnySubnetNorm(_BatchNorm, NormSlice[SlicedNorm]):
    """Batch normalisation with shared scale and shift and one set of statistics per subnet.

    Statistics are computed ahead on training data (`calibrate`) and never change in a forward. An operator bound
    without statistics normalises with those of the batch itself: what training and calibration do. Running
    statistics that an adopted layer brought along stay in its ``state_dict`` and are not used.
    """

    slot: Slot[SlicedNorm]

    def bind(self, channels: int, statistics: NormStatistics | HalfStatistics | None) -> SlicedNorm:
        """Views of the leading ``channels`` scales and shifts, with these statistics."""
        scale: Tensor | None = self.weight
        shift: Tensor | None = self.bias
        return SlicedNorm(
            None if scale is None else scale[:channels], None if shift is None else shift[:channels], statistics
        )

    def with_statistics(self, bound: SlicedNorm, statistics: NormStatistics | HalfStatistics) -> SlicedNorm:
        """See `NormSlice.with_statistics`."""
        return bound._replace(statistics=statistics)

    def extract(self, channels: int, statistics: NormStatistics | HalfStatistics) -> nn.Module:
        """The part as a plain batch normalisation with this subnet's statistics as its running ones."""
        kind = nn.BatchNorm1d if isinstance(self, nn.BatchNorm1d) else nn.BatchNorm2d
        scale, shift, _ = self.bind(channels, statistics)
        plain = kind(channels, eps=self.eps, momentum=self.momentum, affine=scale is not None)
        if scale is not None and shift is not None:
            plain.weight, plain.bias = owned(scale), owned(shift)
        plain.running_mean, plain.running_var = owned(statistics.mean).data, owned(statistics.variance).data
        return plain

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (rows, channels, ...) per channel."""
        scale, shift, statistics = self.slot.value
        if statistics is None:
            return functional.batch_norm(x, None, None, scale, shift, training=True, eps=self.eps)
        return functional.batch_norm(x, *statistics.single(), scale, shift, training=False, eps=self.eps)


class SubnetNorm1d(nn.BatchNorm1d, AnySubnetNorm):
    """SubnetNorm of (rows, channels) or (rows, channels, length)."""

    def __init__(self, channels: int, *, eps: float = 1e-5) -> None:
        super().__init__(channels, eps=eps, track_running_stats=False)
        self.slot = Slot()


class SubnetNorm(nn.BatchNorm2d, AnySubnetNorm):
    """SubnetNorm of (rows, channels, height, width)."""

    def __init__(self, channels: int, *, eps: float = 1e-5) -> None:
        super().__init__(channels, eps=eps, track_running_stats=False)
        self.slot = Slot()


def batch_statistics(x: Tensor) -> NormStatistics:
    """Mean and biased variance per channel of one batch (rows, channels, ...)."""
    variance, mean = torch.var_mean(x, dim=[dim for dim in range(x.dim()) if dim != 1], correction=0)
    return NormStatistics(mean, variance)
