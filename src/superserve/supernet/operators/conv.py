"""WeightSlice for convolutions."""

from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from superserve.supernet.operators.slot import Slot, WeightSlice, owned

_ONEDNN: Final = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]

#: Multiplications per row from which a 1x1 convolution in float32 is handed to oneDNN. Below 16 rows on one thread
#: torch itself takes a matrix product of MKL's, which on AMD processors is up to twice as slow; asking oneDNN costs
#: 20 us, which a smaller convolution does not win back (docs/performance.md, "Engines").
_ONEDNN_FROM: Final = 2_000_000


class SlicedFilter(NamedTuple):
    """The part of a convolution that a subnet runs: views of its weight and bias, and what goes with them."""

    weight: Tensor
    """(outputs, inputs / groups, height, width)."""
    bias: Tensor | None
    padding: tuple[int, ...] | str
    groups: int


class SlicedConv2d(nn.Conv2d, WeightSlice[SlicedFilter]):
    """WeightSlice for a 2-D convolution: the leading output and input channels of one kernel.

    In a grouped convolution whole groups are in use or not, so that both channel counts follow from the number of
    groups; a depthwise one is the case of one channel per group. The view is never made contiguous: that would copy
    weights in every forward (as OFA does).

    Args:
        inputs: input channels at full size.
        outputs: output channels at full size.
        kernel: height and width of the kernel.
        stride: of the convolution.
        padding: on each side; None keeps the size at stride 1 (odd kernels).
        dilation: of the kernel.
        groups: at full size.
        bias: whether there is one.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        stride: int = 1,
        padding: int | None = None,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = False,
    ) -> None:
        same = dilation * (kernel // 2)
        super().__init__(
            inputs,
            outputs,
            kernel,
            stride=stride,
            padding=same if padding is None else padding,
            dilation=dilation,
            groups=groups,
            bias=bias,
        )
        self.slot = Slot[SlicedFilter]()
        self.as_torch = False
        """Whether to compute with the kernels that torch chooses, bit for bit."""

    def bind(self, outputs: int, inputs: int) -> SlicedFilter:
        """Views of the leading ``outputs`` x ``inputs`` part."""
        return self._slice(self.weight, outputs, inputs, self.padding)

    def extract(self, outputs: int, inputs: int) -> nn.Conv2d:
        """See `WeightSlice.extract`."""
        return self._plain(self.bind(outputs, inputs))

    def forward(self, x: Tensor) -> Tensor:
        """(rows, inputs, height, width) to (rows, outputs, height', width')."""
        weight, bias, padding, groups = self.slot.value
        if self.kernel_size == (1, 1) and self._is_for_onednn(x, weight):
            result: Tensor = torch.ops.mkldnn._convolution_pointwise(  # noqa: SLF001 (torch's compiler uses this one)
                x, weight, bias, padding, self.stride, self.dilation, groups, "none", [], ""
            )
            return result
        return functional.conv2d(x, weight, bias, self.stride, padding, self.dilation, groups)

    def _is_for_onednn(self, x: Tensor, weight: Tensor) -> bool:
        """See `_ONEDNN_FROM`; oneDNN's operator has no gradient."""
        return (
            weight.shape[0] * weight.shape[1] * x.shape[2] * x.shape[3]
            >= _ONEDNN_FROM * self.stride[0] * self.stride[1]
            and x.dtype is torch.float32
            and x.device.type == "cpu"
            and not (self.as_torch or torch.is_grad_enabled())
            and _ONEDNN
        )

    def _slice(self, weight: Tensor, outputs: int, inputs: int, padding: tuple[int, ...] | str) -> SlicedFilter:
        bias = None if self.bias is None else self.bias[:outputs]
        if self.groups == 1:
            return SlicedFilter(weight[:outputs, :inputs], bias, padding, 1)
        groups, rest = divmod(inputs, self.in_channels // self.groups)
        assert rest == 0, f"{inputs} inputs do not make whole groups of {self.in_channels // self.groups}"
        assert outputs == groups * (self.out_channels // self.groups), f"{outputs} outputs for {groups} groups"
        return SlicedFilter(weight[:outputs], bias, padding, groups)

    def _plain(self, part: SlicedFilter) -> nn.Conv2d:
        outputs, per_group, *kernel = part.weight.shape
        plain = nn.Conv2d(
            per_group * part.groups,
            outputs,
            (kernel[0], kernel[1]),
            stride=self.stride,  # type: ignore[arg-type]
            padding=part.padding,  # type: ignore[arg-type]
            dilation=self.dilation,  # type: ignore[arg-type]
            groups=part.groups,
            bias=part.bias is not None,
            device="meta",
        )
        plain.weight = owned(part.weight)
        plain.bias = None if part.bias is None else owned(part.bias)
        return plain
