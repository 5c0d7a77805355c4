from typing import Any

import numpy as np
import pytest
import torch

from superserve.errors import ConfigError
from superserve.supernet.preprocess import parse_preprocessing

DIGITS: dict[str, Any] = {
    "type": "image",
    "layout": "HW",
    "scale": 1 / 16,
    "mean": [0.3],
    "std": [0.4],
    "size": [32, 32],
}


def test_normalises_and_resizes() -> None:
    images = torch.full((3, 8, 8), 16, dtype=torch.uint8)
    (x,) = parse_preprocessing(DIGITS).build()([images])
    torch.testing.assert_close(x, torch.full((3, 1, 32, 32), (1 - 0.3) / 0.4))


def test_resize_keeps_each_pixel_in_its_place() -> None:
    images = torch.zeros(1, 8, 8, dtype=torch.uint8)
    images[0, 1, 5] = 16
    (x,) = parse_preprocessing(DIGITS).build()([images])
    row, column = np.unravel_index(int(x[0, 0].argmax()), (32, 32))
    assert row in range(4, 8)
    assert column in range(20, 24)


@pytest.mark.parametrize("layout", ["HWC", "CHW"])
def test_layouts(layout: str) -> None:
    preprocessing = {"type": "image", "layout": layout, "scale": 0.5, "mean": [1, 2], "std": [1, 4]}
    images = torch.tensor([2.0, 10.0]).reshape(1, 2, 1, 1).expand(1, 2, 3, 4)
    given = images.permute(0, 2, 3, 1) if layout == "HWC" else images
    (x,) = parse_preprocessing(preprocessing).build()([given])
    assert x.shape == (1, 2, 3, 4)
    assert x[0, :, 0, 0].tolist() == [0.0, 0.75]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"type": "sound"}, "sound"),
        ({"sclae": 1}, "unknown field `sclae`"),
        ({"std": [0.0]}, "std above 0"),
        ({"mean": [0.1, 0.2]}, "one value per channel"),
        ({"mean": [0.1, 0.2], "std": [1, 1]}, "HW has one channel"),
        ({"layout": "WH"}, "layout"),
    ],
)
def test_wrong_keys_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_preprocessing(DIGITS | change)
