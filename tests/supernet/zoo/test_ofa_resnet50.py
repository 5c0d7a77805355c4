"""Sizes of OFA-ResNet50, as its authors' code gives them; its arithmetic is compared with that code in tests/models."""

import pytest
import torch

from superserve.errors import IllegalSubnetError
from superserve.subnet import SubnetSpec
from superserve.supernet.macs import count_macs
from superserve.supernet.zoo.ofa_resnet50 import OfaResNet50, OfaResNet50Config
from support.sizes import parameters

with torch.device("meta"):
    NETWORK = OfaResNet50(OfaResNet50Config())


@pytest.mark.parametrize(
    ("arch", "millions"),
    [((0, 0.2, 0), 6.5), ((1, 0.25, 1), 15.9), ((2, 0.35, 2), 48.1)],
)
def test_parameters_are_the_published(arch: tuple[int, float, int], millions: float) -> None:
    assert parameters(NETWORK, NETWORK.ofa_spec(*arch)) / 1e6 == pytest.approx(millions, abs=0.06)


@pytest.mark.parametrize(("spec", "billions"), [(NETWORK.space.smallest(), 0.96), (NETWORK.space.largest(), 7.49)])
def test_multiply_accumulates_are_the_published(spec: SubnetSpec, billions: float) -> None:
    macs = count_macs(NETWORK, spec, (torch.zeros(1, 3, 224, 224, device="meta"),))
    assert macs / 1e9 == pytest.approx(billions, abs=0.005)


@pytest.mark.parametrize(
    ("index", "stem", "stages"),
    [
        (0, (24, 40), (168, 336, 664, 1328)),
        (1, (24, 48), (208, 408, 816, 1640)),
        (2, (32, 64), (256, 512, 1024, 2048)),
    ],
)
def test_widths_are_rounded_as_in_training(index: int, stem: tuple[int, int], stages: tuple[int, ...]) -> None:
    slices = NETWORK.geometry(NETWORK.ofa_spec(0, 0.2, index)).slices
    assert (slices["stem.conv1"][0], slices["stem.conv2"][0]) == stem
    assert tuple(slices[f"stages.{i}.0.conv3"][0] for i in range(4)) == stages


def test_entries_go_where_ofa_puts_them() -> None:
    """Depth 0 is the stem's; expand ratios are numbered over all blocks at full depth; w holds indices."""
    expand = [0.2] * 18
    expand[4] = 0.35  # the first block of stage 2
    spec = NETWORK.ofa_spec([0, 2, 0, 1, 0], expand, [2, 0, 1, 2, 0, 1])
    assert [len(blocks) for blocks in spec.keep] == [0, 4, 2, 5, 2]
    assert spec.width("stage2.block0") == 0.35
    assert spec.width("stage2.block1") == 0.2
    assert [spec.width(name) for name in ("stem.middle", "stem", "stage1", "stage4")] == [1.0, 0.65, 0.8, 0.8]
    geometry = NETWORK.geometry(spec)
    # Middle channels follow from the active output width: 0.35 of stage 2's 512, 0.2 of stage 1's 208.
    assert geometry.slices["stages.1.0.conv1"] == (176, 208)
    assert geometry.slices["stages.0.0.conv1"] == (40, 40)
    assert "stem.residual.0.conv" not in geometry.slices


def test_the_stems_residual_runs_only_at_full_depth() -> None:
    """As in OFA, where any d[0] but the greatest skips it: d = 1 for all does too."""
    assert [NETWORK.ofa_spec(d, 0.2, 0).keep[0] for d in (0, 1, 2)] == [(), (), (0,)]


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        (([0, 0], 0.2, 0), "d has 2 values; give 5"),
        ((0, [0.2] * 17, 0), "e has 17 values; give 18"),
        ((3, 0.2, 0), "depth 5 of stage 1"),
        ((0, 0.3, 0), "0.3 is not one of"),
        ((0, 0.2, 3), "indices into"),
    ],
)
def test_what_is_not_in_the_space_is_named(arch: tuple[int, float, int], message: str) -> None:
    with pytest.raises(IllegalSubnetError, match=message):
        NETWORK.ofa_spec(*arch)
