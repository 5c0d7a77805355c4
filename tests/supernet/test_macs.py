import torch

from superserve.supernet.macs import count_macs
from support.supernets import SMALL, small_network


def test_counts_by_hand() -> None:
    """The smallest subnet on one 2x9x9 image, layer by layer."""
    network = small_network()
    assert SMALL.divisor == 4
    full, half = 81, 25  # a stride of 2 rounds 9 up to 5
    expected = (
        full * 4 * 2 * 9  # stem: 2 -> 4
        + full * (4 * 4 + 4 * 4 * 9 + 4 * 8 + 4 * 8)  # stage 0: 4 -> middle 4 -> 8, projection
        + full * 8 * 4 + half * (4 * 4 * 9 + 4 * 12 + 8 * 12)  # stage 1, block 0: 8 -> 4 -> 12
        + half * (12 * 4 + 4 * 4 * 9 + 4 * 12)  # stage 1, block 1
        + 12 * 5  # classifier
    )  # fmt: skip
    assert count_macs(network, network.space.smallest(), (torch.zeros(1, 2, 9, 9),)) == expected


def test_larger_subnets_cost_more() -> None:
    network = small_network()
    x = torch.zeros(1, 2, 9, 9)
    assert count_macs(network, network.space.smallest(), (x,)) < count_macs(network, network.space.largest(), (x,))
