"""Elastic kernel size: small kernels made from the centre of a large one by learnt matrices."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from superserve.supernet.operators.conv import SlicedConv2d, SlicedFilter


class SlicedKernelConv2d(SlicedConv2d):
    """A convolution whose kernel size is elastic too.

    Only the largest kernel is stored. The next smaller one is its centre times a matrix that all channels share
    (``7to5_matrix``, ``5to3_matrix``: (k*k, k*k) of the smaller size), the one after that is made from the *smaller*
    one in the same way, and so on. The result is new memory, unlike every other slice: `small_kernel` makes it at
    full width, so that all subnets of a network can share it (`actuator.bind`), and what a subnet runs is a view.

    Source: OFA, ``DynamicSeparableConv2d`` with ``KERNEL_TRANSFORM_MODE = 1``.

    Args:
        inputs: input channels at full size.
        outputs: output channels at full size.
        kernels: the sizes, odd, in rising order.
        stride: of the convolution.
        groups: at full size.
    """

    def __init__(self, inputs: int, outputs: int, kernels: Sequence[int], *, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernels[-1], stride=stride, groups=groups)
        self.kernels = tuple(kernels)
        for small, large in pairwise(self.kernels):
            self.register_parameter(self._matrix(large, small), nn.Parameter(torch.eye(small * small)))

    def small_kernel(self, kernel: int) -> Tensor:
        """The weight at a kernel size, all channels: (outputs, inputs / groups, kernel, kernel).

        The stored weight itself at the largest size, else new memory.
        """
        weight: Tensor = self.weight
        for small, large in reversed(tuple(pairwise(self.kernels))):
            if large <= kernel:
                break
            edge = (large - small) // 2
            centre = weight[:, :, edge : edge + small, edge : edge + small]
            flat = functional.linear(centre.flatten(2), self.get_parameter(self._matrix(large, small)))
            weight = flat.view_as(centre)
        return weight

    def bind_kernel(self, outputs: int, inputs: int, weight: Tensor) -> SlicedFilter:
        """Views of the leading ``outputs`` x ``inputs`` part of what `small_kernel` made."""
        padding = weight.shape[-1] // 2
        return self._slice(weight, outputs, inputs, (padding, padding))

    def extract_kernel(self, outputs: int, inputs: int, kernel: int) -> nn.Conv2d:
        """The part with this kernel as a plain convolution."""
        return self._plain(self.bind_kernel(outputs, inputs, self.small_kernel(kernel)))

    @staticmethod
    def _matrix(large: int, small: int) -> str:
        return f"{large}to{small}_matrix"
