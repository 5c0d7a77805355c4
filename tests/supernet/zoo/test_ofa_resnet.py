"""The family against its definition, written out once more with plain functions and no shared code."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from torch import Tensor
from torch.nn import functional

from superserve.errors import IllegalSubnetError
from superserve.subnet import SubnetSpec
from superserve.supernet.actuator import apply, bind
from superserve.supernet.operators import Statistics
from superserve.supernet.zoo.ofa_blocks import make_divisible
from support.supernets import SMALL, images, random_statistics, small_network, specs

NETWORK = small_network()


class Reference:
    """OFA's forward: slices by the input's channels, sizes by its formulas."""

    def __init__(self, statistics: Statistics) -> None:
        self.weights, self.statistics = NETWORK.state_dict(), statistics

    def conv(self, x: Tensor, name: str, outputs: int, stride: int = 1) -> Tensor:
        weight = self.weights[f"{name}.weight"][:outputs, : x.size(1)]
        return functional.conv2d(x, weight, stride=stride, padding=weight.size(-1) // 2)

    def norm(self, x: Tensor, name: str) -> Tensor:
        count = x.size(1)
        mean, variance = (value.view(-1, 1, 1) for value in self.statistics[name].single())
        scale, shift = (self.weights[f"{name}.{key}"][:count].view(-1, 1, 1) for key in ("weight", "bias"))
        out: Tensor = (x - mean) / (variance + 1e-5).sqrt() * scale + shift
        return out

    def block(self, x: Tensor, name: str, outputs: int, expand: float, stride: int) -> Tensor:
        middle = make_divisible(round(outputs * expand), 4)
        y = self.norm(self.conv(x, f"{name}.conv1", middle), f"{name}.norm1").relu()
        y = self.norm(self.conv(y, f"{name}.conv2", middle, stride), f"{name}.norm2").relu()
        y = self.norm(self.conv(y, f"{name}.conv3", outputs), f"{name}.norm3")
        if name.endswith(".0"):
            pooled = functional.avg_pool2d(x, stride, stride, ceil_mode=True) if stride > 1 else x
            x = self.norm(self.conv(pooled, f"{name}.shortcut.conv", outputs), f"{name}.shortcut.norm")
        return (x + y).relu()

    def __call__(self, x: Tensor, spec: SubnetSpec) -> Tensor:
        x = self.conv(x, "stem", make_divisible(8 * spec.width("stem"), 4))
        x = self.norm(x, "stem_norm").relu()
        for i, (full, stride) in enumerate(((16, 1), (24, 2))):
            outputs = make_divisible(full * spec.width(f"stage{i}"), 4)
            for j in range(len(spec.keep[i])):
                expand = spec.width(f"stage{i}.block{j}")
                x = self.block(x, f"stages.{i}.{j}", outputs, expand, stride if j == 0 else 1)
        weight, bias = self.weights["classifier.weight"], self.weights["classifier.bias"]
        logits: Tensor = x.mean((2, 3)) @ weight[:, : x.size(1)].T + bias
        return logits


@given(spec=specs(NETWORK.space))
def test_computes_what_ofa_defines(spec: SubnetSpec) -> None:
    statistics, x = random_statistics(NETWORK, spec), images(2)
    with torch.inference_mode():
        apply(bind(NETWORK, spec, statistics))
        torch.testing.assert_close(NETWORK(x), Reference(statistics)(x, spec), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("value", "expected"), [(1, 8), (11, 16), (12, 16), (26.0, 24), (27, 32), (96 * 0.65, 64), (59.8, 56)]
)
def test_make_divisible_rounds_as_ofa(value: float, expected: int) -> None:
    assert make_divisible(value, 8) == expected


@pytest.mark.parametrize(
    ("full", "ratios"),
    [(256, (168, 208, 256)), (512, (336, 408, 512)), (1024, (664, 816, 1024)), (2048, (1328, 1640, 2048))],
)
def test_make_divisible_gives_the_widths_of_ofa_resnet50(full: int, ratios: tuple[int, ...]) -> None:
    assert tuple(make_divisible(full * ratio, 8) for ratio in (0.65, 0.8, 1.0)) == ratios


@given(value=st.floats(1, 5000), divisor=st.sampled_from([1, 4, 8, 16]))
def test_make_divisible_loses_at_most_a_tenth(value: float, divisor: int) -> None:
    rounded = make_divisible(value, divisor)
    assert rounded % divisor == 0
    assert rounded >= max(divisor, 0.9 * value)


def test_the_first_block_of_a_stage_always_runs() -> None:
    """It changes the shape."""
    assert all(keep[0] == 0 for keep in NETWORK.space.smallest().keep)
    outside = SubnetSpec(((), (0, 1)), NETWORK.space.smallest().widths)
    with pytest.raises(IllegalSubnetError, match="depth 0 of stage 0"):
        NETWORK.geometry(outside)


def test_widths_exist_once_per_stage_and_block() -> None:
    names = [width.name for width in NETWORK.space.widths]
    blocks = [f"stage{i}.block{j}" for i, stage in enumerate(SMALL.stages) for j in range(stage.depths[-1])]
    assert sorted(names) == sorted(["stem", "stage0", "stage1", *blocks])
