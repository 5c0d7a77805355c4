"""Which subnets an import serves."""

import msgspec
import numpy as np
import pytest
import torch

from superserve.model_folder import TensorSpec
from superserve.supernet.importing.choice import Sizer, choose
from superserve.supernet.preprocess import NoPreprocessing
from superserve.supernet.zoo.dynabert import DynaBert
from support.checkpoints import BERT

with torch.device("meta"):
    NETWORK = DynaBert(msgspec.structs.replace(BERT, layers=8))
INPUTS = [TensorSpec(name, "INT64", (-1, 8)) for name in ("input_ids", "attention_mask")]
SIZER = Sizer(NETWORK, INPUTS, NoPreprocessing().build())


@pytest.mark.parametrize("count", [2, 3, 6])
def test_chosen_subnets_are_evenly_spaced_from_smallest_to_largest(count: int) -> None:
    chosen = choose(NETWORK, count, SIZER)
    macs = [subnet.macs for subnet in chosen]
    assert (chosen[0].spec, chosen[-1].spec) == (NETWORK.space.smallest(), NETWORK.space.largest())
    assert [subnet.id for subnet in chosen] == [f"s{number}" for number in range(count)]
    assert macs == [SIZER(subnet.spec) for subnet in chosen]
    even = np.linspace(macs[0], macs[-1], count)
    assert np.abs(np.array(macs) - even).max() < 0.15 * macs[-1]


def test_all_may_be_chosen_even_if_some_cost_the_same() -> None:
    assert len({subnet.spec for subnet in choose(NETWORK, 100, SIZER)}) == 12


def test_one_is_the_largest() -> None:
    assert [subnet.spec for subnet in choose(NETWORK, 1, SIZER)] == [NETWORK.space.largest()]
