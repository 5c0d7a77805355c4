"""How many parameters the usual ResNets have, from their shapes (He et al., "Deep Residual Learning", 2016, table 1).

The counts are those of torchvision's models: convolutions without bias, scale and shift of each batch normalisation,
and a linear layer for 1,000 classes; running statistics are no parameters.
"""

from typing import Final, NamedTuple


class _Shape(NamedTuple):
    blocks: tuple[int, ...]
    bottleneck: bool


RESNETS: Final = {
    "ResNet18": _Shape((2, 2, 2, 2), bottleneck=False),
    "ResNet34": _Shape((3, 4, 6, 3), bottleneck=False),
    "ResNet50": _Shape((3, 4, 6, 3), bottleneck=True),
    "ResNet101": _Shape((3, 4, 23, 3), bottleneck=True),
}
_CLASSES: Final = 1000
_WIDTHS: Final = (64, 128, 256, 512)


def parameters(name: str) -> int:
    """Parameters of one of `RESNETS`."""
    shape = RESNETS[name]
    total, inputs = _conv(3, 64, 7), 64
    for width, blocks in zip(_WIDTHS, shape.blocks, strict=True):
        outputs = 4 * width if shape.bottleneck else width
        for _ in range(blocks):
            total += _block(inputs, width, outputs, bottleneck=shape.bottleneck)
            inputs = outputs
    return total + inputs * _CLASSES + _CLASSES


def _block(inputs: int, width: int, outputs: int, *, bottleneck: bool) -> int:
    if bottleneck:
        total = _conv(inputs, width, 1) + _conv(width, width, 3) + _conv(width, outputs, 1)
    else:
        total = _conv(inputs, width, 3) + _conv(width, outputs, 3)
    return total + (_conv(inputs, outputs, 1) if inputs != outputs else 0)


def _conv(inputs: int, outputs: int, kernel: int) -> int:
    """A convolution and its batch normalisation."""
    return inputs * outputs * kernel * kernel + 2 * outputs
