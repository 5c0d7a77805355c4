"""What the OFA families share: rounding, and the bottleneck of the residual ones.

Source: mit-han-lab/once-for-all (``make_divisible``, ``DynamicResNetBottleneckBlock``).
"""

from torch import Tensor, nn

from superserve.supernet.operators import SlicedConv2d, SubnetNorm


def make_divisible(value: float, divisor: int) -> int:
    """Round a channel count to a multiple of ``divisor``, at least one, never losing more than a tenth.

    Source: ``make_divisible`` of OFA (and before it of TensorFlow's MobileNet).
    """
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


class Bottleneck(nn.Module):
    """1x1, 3x3 (strided), 1x1 convolutions around a shortcut."""

    def __init__(self, inputs: int, middle: int, outputs: int, *, stride: int, projects: bool) -> None:
        super().__init__()
        self.conv1 = SlicedConv2d(inputs, middle, 1)
        self.norm1 = SubnetNorm(middle)
        self.conv2 = SlicedConv2d(middle, middle, 3, stride=stride)
        self.norm2 = SubnetNorm(middle)
        self.conv3 = SlicedConv2d(middle, outputs, 1)
        self.norm3 = SubnetNorm(outputs)
        self.shortcut = Projection(inputs, outputs, stride=stride) if projects else nn.Identity()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(rows, inputs, h, w) to (rows, outputs, h / stride, w / stride)."""
        y = self.relu(self.norm1(self.conv1(x)))
        y = self.relu(self.norm2(self.conv2(y)))
        y = self.norm3(self.conv3(y))
        out: Tensor = self.relu(y.add_(self.shortcut(x)))
        return out


class Projection(nn.Module):
    """The shortcut of a block that changes the shape (ResNet-D: average pooling, then a 1x1 convolution)."""

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(stride, stride, ceil_mode=True) if stride > 1 else nn.Identity()
        self.conv = SlicedConv2d(inputs, outputs, 1)
        self.norm = SubnetNorm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(rows, inputs, h, w) to (rows, outputs, h / stride, w / stride)."""
        projected: Tensor = self.norm(self.conv(self.pool(x)))
        return projected


def bottleneck_stage(inputs: int, middle: int, outputs: int, *, blocks: int, stride: int) -> list[Bottleneck]:
    """The blocks of a stage: the first changes the shape, and so has a projection."""
    first = Bottleneck(inputs, middle, outputs, stride=stride, projects=True)
    return [first, *(Bottleneck(outputs, middle, outputs, stride=1, projects=False) for _ in range(blocks - 1))]


def bottleneck_geometry(
    name: str, sizes: tuple[int, int, int], slices: dict[str, tuple[int, int]], channels: dict[str, int]
) -> None:
    """Add the operators of the bottleneck ``name`` of these (input, middle, output) channels."""
    inputs, middle, outputs = sizes
    slices |= {
        f"{name}.conv1": (middle, inputs),
        f"{name}.conv2": (middle, middle),
        f"{name}.conv3": (outputs, middle),
    }
    channels |= {f"{name}.norm1": middle, f"{name}.norm2": middle, f"{name}.norm3": outputs}
    if name.endswith(".0"):
        slices[f"{name}.shortcut.conv"] = (outputs, inputs)
        channels[f"{name}.shortcut.norm"] = outputs
