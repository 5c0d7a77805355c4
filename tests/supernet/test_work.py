"""Against networks whose work can be counted by hand."""

import numpy as np
import pytest
import torch

from superserve.supernet.engine import EagerEngine
from superserve.supernet.macs import count_macs
from superserve.supernet.work import _Traffic, count_work
from support.supernets import pixels, small_supernet


def test_a_subnet_s_work_is_that_of_one_row() -> None:
    supernet = small_supernet()
    engine = EagerEngine(supernet)
    weights = list(supernet.network.parameters())
    found = [count_work(engine, index, [pixels(1)], weights) for index in range(len(engine.subnet_ids))]
    for work, record in zip(found, supernet.front.subnets, strict=True):
        assert work.macs == count_macs(supernet.network, record.spec, (torch.zeros(1, 2, 9, 9),))
    smallest, *_, largest = found
    whole = sum(parameter.nbytes for parameter in weights)
    assert 0 < smallest.weight_bytes < largest.weight_bytes <= whole
    assert smallest.activation_bytes < largest.activation_bytes
    assert smallest.operators < largest.operators


def test_the_largest_subnet_reads_each_weight_once() -> None:
    """That of this network uses all of them: convolutions, scales and shifts, classifier."""
    supernet = small_supernet()
    engine, weights = EagerEngine(supernet), list(supernet.network.parameters())
    work = count_work(engine, len(engine.subnet_ids) - 1, [pixels(1)], weights)
    assert work.weight_bytes == sum(parameter.nbytes for parameter in weights)


def test_activations_grow_with_the_rows_and_weights_do_not() -> None:
    supernet = small_supernet()
    engine, weights = EagerEngine(supernet), list(supernet.network.parameters())
    one, four = (count_work(engine, 0, [pixels(rows)], weights) for rows in (1, 4))
    assert (one.operators, one.weight_bytes, 4 * one.macs) == (four.operators, four.weight_bytes, four.macs)
    assert 3.5 < four.activation_bytes / one.activation_bytes <= 4


def test_counting_changes_nothing() -> None:
    supernet = small_supernet()
    engine = EagerEngine(supernet)
    before = engine.run(1, [pixels(2)])[0].copy()
    count_work(engine, 1, [pixels(2)], supernet.network.parameters())
    np.testing.assert_array_equal(engine.run(1, [pixels(2)])[0], before)


@pytest.mark.parametrize("parameters", [[]])
def test_without_weights_everything_is_an_activation(parameters: list[torch.nn.Parameter]) -> None:
    supernet = small_supernet()
    assert count_work(EagerEngine(supernet), 0, [pixels(1)], parameters).weight_bytes == 0


def test_of_an_embedding_the_rows_that_are_looked_up_are_read() -> None:
    """Not the whole vocabulary."""
    table, pieces = torch.nn.Embedding(1000, 4), torch.zeros(3, dtype=torch.int64)
    with torch.no_grad(), _Traffic(table.parameters()) as traffic:
        table(pieces)
    assert traffic.weight_bytes == 3 * 4 * 4
    assert traffic.activation_bytes == 3 * 8 + 3 * 4 * 4
