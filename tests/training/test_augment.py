import torch
from torch.nn import functional

from superserve.training.augment import Affine, augment

STILL = Affine(degrees=0, scale=0, shear=0, shift=0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_identity_is_the_preprocessings_resize() -> None:
    """But for the outermost half pixel, where one clamps and the other fades to background."""
    images = torch.rand(3, 1, 8, 8, generator=generator())
    found = augment(images, (32, 32), STILL, generator())
    expected = functional.interpolate(images, (32, 32), mode="bilinear", align_corners=False)
    torch.testing.assert_close(found[..., 2:-2, 2:-2], expected[..., 2:-2, 2:-2])


def test_maps_are_seeded_and_differ_between_images() -> None:
    images = torch.rand(1, 1, 8, 8, generator=generator()).expand(4, 1, 8, 8)
    first = augment(images, (16, 16), Affine(), generator(1))
    assert torch.equal(first, augment(images, (16, 16), Affine(), generator(1)))
    assert not torch.equal(first, augment(images, (16, 16), Affine(), generator(2)))
    assert not torch.equal(first[0], first[1])


def test_shifts_stay_within_their_range() -> None:
    """A dot moves by at most 0.2 half widths: 0.8 of 8 pixels, 3.2 of 32."""
    images = torch.zeros(200, 1, 8, 8)
    images[:, :, 3:5, 3:5] = 1
    moved = augment(images, (32, 32), Affine(degrees=0, scale=0, shear=0, shift=0.2), generator())
    columns = torch.arange(32.0)
    centre = (moved.sum(2) * columns).sum(-1) / moved.sum((2, 3))
    offset = (centre - 15.5).abs()
    assert offset.max() <= 3.3
    assert offset.max() > 2.5


def test_never_mirrors() -> None:
    """An L stays an L: its foot points right (a shear may hide that in a few draws; mirroring would in half)."""
    images = torch.zeros(200, 1, 8, 8)
    images[:, :, 1:7, 2] = 1
    images[:, :, 6, 2:6] = 1
    x = augment(images, (32, 32), Affine(), generator())
    columns = torch.arange(32.0)
    centre = (x.sum(2) * columns).sum(-1) / x.sum((2, 3))
    top = x[:, :, :16]
    upper = (top.sum(2) * columns).sum(-1) / top.sum((2, 3))
    assert (centre > upper).float().mean() > 0.95
