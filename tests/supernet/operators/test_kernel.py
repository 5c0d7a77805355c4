"""Elastic kernel size against OFA's chain, written out."""

from collections.abc import Callable
from functools import cached_property

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from superserve.subnet import SearchSpace, SubnetSpec, Width
from superserve.supernet.actuator import Actuator, apply, bind
from superserve.supernet.network import ElasticNetwork
from superserve.supernet.operators import Geometry, SlicedKernelConv2d

GENERATOR = torch.Generator().manual_seed(0)


class OneConvolution(ElasticNetwork):
    """A depthwise convolution of elastic width and kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = SlicedKernelConv2d(8, 8, (3, 5, 7), stride=2, groups=8)
        for name, parameter in self.named_parameters():
            nn.init.normal_(parameter, generator=GENERATOR)
            parameter.data = parameter.data.double()
            assert name in {"conv.weight", "conv.7to5_matrix", "conv.5to3_matrix"}

    @cached_property
    def space(self) -> SearchSpace:
        return SearchSpace((), (Width("width", (0.5, 1.0)), Width("kernel", (3.0, 5.0, 7.0))))

    def geometry(self, spec: SubnetSpec) -> Geometry:
        width = int(8 * spec.width("width"))
        return Geometry({}, {"conv": (width, width)}, {}, {"conv": int(spec.width("kernel"))})

    def spec(self, width: float, kernel: int) -> SubnetSpec:
        return self.space.spec((), {"width": width, "kernel": kernel})

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.conv(x)
        return found


def _by_hand(conv: SlicedKernelConv2d, width: int, kernel: int) -> Tensor:
    """One channel at a time: centre, flatten, multiply; 3x3 from the 5x5 that was made."""
    channels = []
    for whole in conv.weight[:width, 0]:
        pixels = whole
        for small, matrix in ((5, conv.get_parameter("7to5_matrix")), (3, conv.get_parameter("5to3_matrix"))):
            if small >= kernel:
                pixels = (matrix @ pixels[1:-1, 1:-1].reshape(-1)).view(small, small)
        channels.append(pixels)
    return torch.stack(channels).unsqueeze(1)


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("ratio", [0.5, 1.0])
def test_small_kernels_are_made_in_a_chain(kernel: int, ratio: float) -> None:
    network, width = OneConvolution(), int(8 * ratio)
    spec = network.spec(ratio, kernel)
    x = torch.randn(2, width, 9, 9, dtype=torch.float64, generator=GENERATOR)
    weight = _by_hand(network.conv, width, kernel)
    expected = functional.conv2d(x, weight, stride=2, padding=kernel // 2, groups=width)
    apply(bind(network, spec, None))
    torch.testing.assert_close(network(x), expected)
    plain = network.conv.extract_kernel(width, width, kernel)
    assert type(plain) is nn.Conv2d
    assert plain.kernel_size == (kernel, kernel)
    torch.testing.assert_close(plain(x), expected)


def test_subnets_share_the_kernels_they_need() -> None:
    """Bytes depend on kernel sizes in use, not on the number of subnets; the largest size costs nothing."""
    network = OneConvolution().requires_grad_(requires_grad=False)

    def small_bytes(*specs: SubnetSpec) -> int:
        return Actuator(network, {index: (spec, {}) for index, spec in enumerate(specs)}).small_kernel_bytes

    assert small_bytes(network.spec(0.5, 7), network.spec(1.0, 7)) == 0
    assert small_bytes(network.spec(0.5, 5)) == 8 * 25 * 8
    assert small_bytes(*(network.spec(ratio, kernel) for ratio in (0.5, 1.0) for kernel in (3, 5, 7))) == 8 * 34 * 8


def test_the_largest_kernel_is_a_view() -> None:
    network = OneConvolution()
    assert network.conv.small_kernel(7).data_ptr() == network.conv.weight.data_ptr()


def _gradients(network: OneConvolution, run: Callable[[Tensor], Tensor]) -> list[Tensor]:
    network.zero_grad()
    torch.autograd.backward(run(torch.ones(1, 8, 9, 9, dtype=torch.float64)).square().sum())
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in network.parameters()]


def test_training_reaches_the_whole_kernel_and_the_matrices() -> None:
    network = OneConvolution()

    def ours(x: Tensor) -> Tensor:
        apply(bind(network, network.spec(1.0, 3), None))
        found: Tensor = network(x)
        return found

    def by_hand(x: Tensor) -> Tensor:
        return functional.conv2d(x, _by_hand(network.conv, 8, 3), stride=2, padding=1, groups=8)

    expected = _gradients(network, by_hand)
    assert all(gradient.any() for gradient in expected)
    torch.testing.assert_close(_gradients(network, ours), expected)
