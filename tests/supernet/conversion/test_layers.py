"""Layers with a forward of their own, or without an operator: sliced as what they are."""

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from superserve.supernet.conversion import convert, reorder_by_importance
from support.plain_models import randomised


class SameConv(nn.Conv2d):
    """Pads its input itself, as TensorFlow does."""

    def forward(self, x: Tensor) -> Tensor:
        x = functional.pad(x, (1, 1, 1, 1))
        return functional.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class NormAct(nn.BatchNorm2d):
    """Normalisation with its activation built in."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(super().forward(x))  # type: ignore[no-any-return]


class ScaledLinear(nn.Linear):
    """Does something after the product."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 0.5


def _conv2d(*middle: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 16, 1), *middle, nn.Conv2d(16, 4, 1))


IMAGES, LINES, VOLUMES = torch.randn(3, 3, 6, 6), torch.randn(3, 3, 6), torch.randn(3, 3, 4, 4, 4)

LAYERS: Mapping[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "own padding": (lambda: _conv2d(nn.ReLU(), SameConv(16, 16, 3)), IMAGES),
    "own padding, depthwise": (lambda: _conv2d(SameConv(16, 16, 3, groups=16)), IMAGES),
    "own padding, grouped": (lambda: _conv2d(SameConv(16, 16, 3, groups=4)), IMAGES),
    "reflecting": (lambda: _conv2d(nn.Conv2d(16, 16, 3, padding=1, groups=2, padding_mode="reflect")), IMAGES),
    "norm with activation": (lambda: _conv2d(NormAct(16)), IMAGES),
    "group norm": (lambda: _conv2d(nn.GroupNorm(8, 16)), IMAGES),
    "group norm without scales": (lambda: _conv2d(nn.GroupNorm(8, 16, affine=False)), IMAGES),
    "instance norm": (lambda: _conv2d(nn.InstanceNorm2d(16, affine=True)), IMAGES),
    "norm without scales": (lambda: _conv2d(nn.BatchNorm2d(16, affine=False)), IMAGES),
    "slopes per channel": (lambda: _conv2d(nn.PReLU(16)), IMAGES),
    "one slope": (lambda: _conv2d(nn.PReLU()), IMAGES),
    "more outputs per group": (
        lambda: nn.Sequential(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 32, 3, groups=16), nn.Conv2d(32, 4, 1)),
        IMAGES,
    ),
    "one dimension": (
        lambda: nn.Sequential(nn.Conv1d(3, 16, 3), nn.BatchNorm1d(16), nn.ReLU(), nn.Conv1d(16, 4, 1)),
        LINES,
    ),
    "three dimensions": (
        lambda: nn.Sequential(nn.Conv3d(3, 16, 3), nn.BatchNorm3d(16), nn.MaxPool3d(2), nn.Conv3d(16, 4, 1)),
        VOLUMES,
    ),
    "own product": (
        lambda: nn.Sequential(nn.Flatten(), ScaledLinear(18, 16), nn.Dropout(), nn.Linear(16, 4)),
        LINES,
    ),
    "pooled and resized": (
        lambda: _conv2d(nn.AvgPool2d(2), nn.Upsample(scale_factor=2), nn.MaxPool2d(2, return_indices=False)),
        IMAGES,
    ),
    "flattened into a layer": (
        lambda: nn.Sequential(nn.Conv2d(3, 16, 3), nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(64, 4)),
        IMAGES,
    ),
}


@pytest.fixture(params=LAYERS)
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor]:
    build, example = LAYERS[request.param]
    return randomised(build()).requires_grad_(requires_grad=False), example


def test_narrowed_and_extracted(case: tuple[nn.Module, Tensor]) -> None:
    model, example = case
    before = model(example)
    kinds = [type(module) for module in model.modules()]
    full = sum(parameter.numel() for parameter in model.parameters())
    conversion = convert(model, example)
    assert torch.equal(model(example), before)
    spec = conversion.space.smallest()
    conversion.actuate(spec)
    plain = conversion.extract(spec)
    torch.testing.assert_close(plain(example), model(example), rtol=0, atol=1e-6)
    assert not torch.equal(model(example), before)
    assert [type(module) for module in plain.modules()] == kinds
    assert sum(parameter.numel() for parameter in plain.parameters()) < full
    assert str(plain) != str(model)


@pytest.mark.parametrize("name", sorted(set(LAYERS) - {"own padding"}))
def test_narrowing_is_zeroing_what_reads_the_rest(name: str) -> None:
    """The last layer alone mixes channels: the least subnet is the full network with half of its columns zero."""
    build, example = LAYERS[name]
    model = randomised(build()).requires_grad_(requires_grad=False)
    conversion = convert(model, example)
    conversion.actuate(conversion.space.smallest())
    narrow = model(example)
    conversion.actuate(conversion.space.largest())
    last = list(model.children())[-1]
    last.weight[:, last.weight.shape[1] // 2 :] = 0  # type: ignore[index, operator]
    torch.testing.assert_close(narrow, model(example), rtol=0, atol=1e-5)


def test_calibrated_and_reordered(case: tuple[nn.Module, Tensor]) -> None:
    model, example = case
    before = model(example)
    conversion = convert(model, example)
    reorder_by_importance(conversion)
    torch.testing.assert_close(model(example), before, rtol=0, atol=1e-5)
    spec = conversion.space.smallest()
    conversion.calibrate([example], spec)
    conversion.actuate(spec)
    torch.testing.assert_close(conversion.extract(spec)(example), model(example), rtol=0, atol=1e-6)


def test_a_norm_that_uses_the_batch_keeps_its_width() -> None:
    model = nn.Sequential(
        _conv2d(nn.BatchNorm2d(16, track_running_stats=False)), nn.Conv2d(4, 8, 1), nn.Conv2d(8, 2, 1)
    )
    conversion = convert(model.eval(), IMAGES)
    (fixed, *_) = conversion.report.fixed
    assert fixed.reason == "0.1 keeps no running statistics"
