"""Augmentation of small images: affine maps for digits; crops, mirror images and cutout for photographs."""

from math import radians

import msgspec
import torch
from torch import Tensor
from torch.nn import functional


class Affine(msgspec.Struct, frozen=True, kw_only=True):
    """Ranges of a random affine map; every quantity is drawn uniformly from plus or minus its range."""

    degrees: float = 12.0
    scale: float = 0.12
    shear: float = 0.12
    shift: float = 0.2
    """In half image widths: 0.2 of an 8-pixel image is 0.8 pixels."""


def augment(images: Tensor, size: tuple[int, int], ranges: Affine, generator: torch.Generator) -> Tensor:
    """Map each image by its own random affine map, resizing on the way.

    Bilinear, background 0. The same sampling grid as `functional.interpolate(..., align_corners=False)`, so that the
    identity map is the preprocessing's resize but for the outermost half pixel.

    Args:
        images: (rows, channels, height, width), float32.
        size: height and width of the result.
        ranges: how far the maps go.
        generator: draws the maps, on the CPU.

    Returns:
        (rows, channels, *size), float32.
    """
    rows, channels = images.shape[:2]
    turn, scale, shear, right, down = (torch.rand(5, rows, generator=generator) * 2 - 1).unbind()
    turn, scale = turn * radians(ranges.degrees), 1 + scale * ranges.scale
    theta = torch.zeros(rows, 2, 3)
    theta[:, 0, 0] = turn.cos() * scale
    theta[:, 0, 1] = -turn.sin() * scale + shear * ranges.shear
    theta[:, 1, 0] = turn.sin() * scale
    theta[:, 1, 1] = turn.cos() * scale
    theta[:, 0, 2] = right * ranges.shift
    theta[:, 1, 2] = down * ranges.shift
    grid = functional.affine_grid(theta, [rows, channels, *size], align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


class CropFlip(msgspec.Struct, frozen=True, kw_only=True):
    """Random crops of padded images, mirrored or not, with a square blotted out.

    Source: He et al., "Deep Residual Learning", 2016 (crop, flip); DeVries and Taylor, "Cutout", 2017.
    """

    padding: int = 4
    """Pixels on each side before the crop, mirrored from the image."""
    flip: bool = True
    """Whether half of the images are mirrored left to right."""
    cutout: int = 8
    """Side of the square, in pixels; its centre lies anywhere in the image, so part of it may lie outside."""


def crop_flip(images: Tensor, options: CropFlip, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Crop and mirror each image by a draw of its own, and say which pixels are to be blotted out.

    Args:
        images: (rows, height, width, channels), of any type.
        options: how far.
        generator: draws, on the CPU.

    Returns:
        Images of the same shape and type, and a mask (rows, height, width, 1), true where an image is to be blank.
    """
    rows, height, width = images.shape[:3]
    padding = options.padding

    def draw(count: int) -> Tensor:
        return torch.randint(count, (rows, 1), generator=generator)

    y = draw(2 * padding + 1) + torch.arange(height) - padding
    x = draw(2 * padding + 1) + torch.arange(width) - padding
    if options.flip:
        x = torch.where(draw(2) == 1, x.flip(1), x)
    cropped = images[torch.arange(rows).view(-1, 1, 1), _mirror(y, height)[:, :, None], _mirror(x, width)[:, None, :]]
    blank_y = _within(torch.arange(height), draw(height), options.cutout)
    blank_x = _within(torch.arange(width), draw(width), options.cutout)
    return cropped, (blank_y[:, :, None] & blank_x[:, None, :]).unsqueeze(-1)


def _mirror(index: Tensor, size: int) -> Tensor:
    """Indices beyond an edge, mirrored at the pixel on the edge."""
    index = index.abs()
    return torch.where(index >= size, 2 * (size - 1) - index, index)


def _within(positions: Tensor, centre: Tensor, side: int) -> Tensor:
    """Which positions lie in a span of this length around each centre: (rows, positions)."""
    offset = positions - centre + side // 2
    return (offset >= 0) & (offset < side)
