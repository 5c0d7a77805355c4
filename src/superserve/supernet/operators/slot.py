"""The one mutable cell of an operator, and what operators that slice weights have in common."""

from abc import abstractmethod
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")


class Slot(Generic[T]):
    """What the active subnet makes an operator run. Empty until a first actuation."""

    __slots__ = ("value",)
    value: T

    def __deepcopy__(self, memo: dict[int, object]) -> "Slot[T]":
        """A copied operator starts empty: what the original runs are views of the original's weights."""
        return Slot()


class WeightSlice(Generic[T]):
    """A layer that runs the leading outputs and the leading inputs of its weights, by views that copy nothing.

    No slots of its own, and named after the torch class in each operator's bases: else Python would refuse the class
    swap of `adopt`.
    """

    __slots__ = ()
    slot: Slot[T]

    @abstractmethod
    def bind(self, outputs: int, inputs: int) -> T:
        """What goes into the slot to run the leading ``outputs`` and ``inputs``."""

    @abstractmethod
    def extract(self, outputs: int, inputs: int) -> nn.Module:
        """The same part as a plain torch layer with weights of its own."""


def owned(tensor: Tensor) -> nn.Parameter:
    """A contiguous copy, as the frozen parameter of an extracted layer."""
    return nn.Parameter(tensor.detach().clone(memory_format=torch.contiguous_format), requires_grad=False)
