from itertools import pairwise

import msgspec
import pytest
import torch

from superserve.training import start
from superserve.training.start import decaying, fastest_precision, initial_network, one_cycle
from support.supernets import SMALL, small_network


def test_rises_then_falls_to_nothing() -> None:
    factors = [one_cycle(step, 100, warm_up=0.1) for step in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9] == factors[10] == 1
    assert factors[55] == pytest.approx(0.5)
    assert factors[100] == pytest.approx(0)
    assert all(less < more for less, more in pairwise(factors[:10]))
    assert all(more > less for more, less in pairwise(factors[10:]))


def test_one_step_is_taken_at_full_rate() -> None:
    assert one_cycle(0, 1) == 1


def test_initial_weights_are_the_seeds_and_leave_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    one, same, other = (
        initial_network("ofa_resnet", msgspec.to_builtins(SMALL), seed).state_dict()["stem.weight"]
        for seed in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_scales_and_shifts_do_not_decay() -> None:
    network = small_network()
    matrices, vectors = decaying(network, 0.3)
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.3, 0.0)
    assert {p.dim() for p in vectors["params"]} == {1}
    assert len(matrices["params"]) + len(vectors["params"]) == len(list(network.parameters()))


def test_bfloat16_where_the_processor_multiplies_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for multiplies, expected in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(start, "has_bfloat16", lambda multiplies=multiplies: multiplies)
        assert fastest_precision() == expected
