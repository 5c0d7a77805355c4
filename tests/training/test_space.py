import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from superserve.supernet.zoo.ofa_resnet import OfaResNet
from superserve.training.cifar10 import ARCHITECTURE
from superserve.training.space import choice_of, count, dimensions, every, subnet
from support.supernets import small_network, specs
from support.training import TINY

SPACE = OfaResNet(TINY).space
SMALL = small_network().space


def test_every_subnet_comes_once_and_all_are_counted() -> None:
    """By hand: 2^3 widths outside blocks; one block or two of 2 ratios, times one block of 2."""
    found = list(every(SPACE))
    assert len(found) == len(set(found)) == count(SPACE) == 2**3 * (2 + 4) * 2
    assert found[0] == SPACE.smallest()
    assert SPACE.largest() in found
    for spec in found:
        SPACE.validate(spec)


def test_the_bundled_models_space_is_large() -> None:
    """4^4 widths; 3 + 9 + 27 + 81 ways for the blocks of two stages, 3 + 9 + 27 for those of the third."""
    assert count(OfaResNet(ARCHITECTURE).space) == 4**4 * 120 * 120 * 39


@given(specs(SMALL))
def test_choices_give_their_subnets_back(spec: object) -> None:
    choice = choice_of(SMALL, spec)  # type: ignore[arg-type]
    assert all(0 <= index < values for index, values in zip(choice, dimensions(SMALL).values(), strict=True))
    assert subnet(SMALL, choice) == spec


@given(st.integers(0, 2**32))
def test_any_choice_is_a_subnet(seed: int) -> None:
    rng = np.random.default_rng(seed)
    SMALL.validate(subnet(SMALL, [int(rng.integers(values)) for values in dimensions(SMALL).values()]))
