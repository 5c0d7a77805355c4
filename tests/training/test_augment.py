import torch
from torch.nn import functional

from superserve.training.augment import Affine, CropFlip, augment, crop_flip

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


def numbered(rows: int, size: int = 6) -> torch.Tensor:
    """Images (rows, size, size, 1) whose pixels say where they stand: 10 * row + column."""
    positions = torch.arange(size)
    return (10 * positions[:, None] + positions).view(1, size, size, 1).expand(rows, size, size, 1).clone()


def test_nothing_to_do_changes_nothing() -> None:
    images = numbered(3)
    cropped, blank = crop_flip(images, CropFlip(padding=0, flip=False, cutout=0), generator())
    assert torch.equal(cropped, images)
    assert not blank.any()


def test_crops_are_shifts_of_the_mirrored_image() -> None:
    """Every result is one of the 25 crops of the image padded by torch's reflection; most of them come up."""
    options = CropFlip(padding=2, flip=False, cutout=0)
    cropped, _ = crop_flip(numbered(300), options, generator())
    padded = functional.pad(numbered(1).permute(0, 3, 1, 2).float(), (2, 2, 2, 2), mode="reflect")[0, 0].long()
    crops = torch.stack([padded[y : y + 6, x : x + 6].flatten() for y in range(5) for x in range(5)])
    matches = (cropped.flatten(1)[:, None, :] == crops[None]).all(-1)
    assert matches.any(1).all()
    assert matches.any(0).sum() > 20


def test_half_of_the_images_are_mirrored() -> None:
    images = numbered(400)
    cropped, _ = crop_flip(images, CropFlip(padding=0, cutout=0), generator())
    mirrored = (cropped == images.flip(2)).flatten(1).all(1)
    assert torch.equal(mirrored, (cropped != images).flatten(1).any(1))
    assert 150 < int(mirrored.sum()) < 250


def test_a_square_is_blotted_out_at_most() -> None:
    _, blank = crop_flip(numbered(300, 12), CropFlip(cutout=4), generator())
    assert blank.shape == (300, 12, 12, 1)
    for mask in blank[..., 0]:
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        assert 2 <= len(rows) <= 4
        assert 2 <= len(columns) <= 4
        assert int(mask.sum()) == len(rows) * len(columns)
    assert blank.float().mean((0, 3)).min() > 0.01  # no place is spared


def test_crops_are_seeded() -> None:
    images = numbered(8)
    first, again, other = (crop_flip(images, CropFlip(), generator(seed))[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
