"""Augmentation of small images: random shifts, rotations, scalings and shears, never mirror images."""

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
