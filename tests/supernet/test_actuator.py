import numpy as np
import pytest
import torch
from hypothesis import given
from torch import Tensor

from superserve.errors import IllegalSubnetError
from superserve.subnet import SubnetSpec
from superserve.supernet.actuator import Actuator, apply, bind
from superserve.supernet.network import ElasticNetwork, Supernet
from superserve.supernet.operators import SlicedConv2d, SlicedWeight, Statistics, SubnetNorm
from support.supernets import images, random_statistics, small_network, small_supernet, specs

NETWORK = small_network()


def run(network: ElasticNetwork, spec: SubnetSpec, statistics: Statistics, x: Tensor) -> Tensor:
    with torch.inference_mode():
        apply(bind(network, spec, statistics))
        logits: Tensor = network(x)
    return logits


@given(first=specs(NETWORK.space), second=specs(NETWORK.space))
def test_there_and_back_is_bit_identical(first: SubnetSpec, second: SubnetSpec) -> None:
    """A -> B -> A: nothing of B stays behind."""
    x, a, b = images(3), random_statistics(NETWORK, first, 1), random_statistics(NETWORK, second, 2)
    before = run(NETWORK, first, a, x)
    run(NETWORK, second, b, x)
    assert torch.equal(run(NETWORK, first, a, x), before)


@given(specs(NETWORK.space))
def test_every_bound_weight_is_a_view_of_the_one_copy(spec: SubnetSpec) -> None:
    storages = {parameter.untyped_storage().data_ptr() for parameter in NETWORK.parameters()}
    bound = [value for _, value in bind(NETWORK, spec, None) if isinstance(value, SlicedWeight)]
    assert bound
    assert {value.weight.untyped_storage().data_ptr() for value in bound} <= storages


@given(specs(NETWORK.space))
def test_operators_of_skipped_blocks_are_left_alone(spec: SubnetSpec) -> None:
    """Actuation costs what the subnet uses, not what the supernet has."""
    taking_part = {id(slot) for slot, _ in bind(NETWORK, spec, None)}
    for stage, keep in enumerate(spec.keep):
        for number, block in enumerate(NETWORK.get_submodule(f"stages.{stage}").children()):
            slots = {id(module.slot) for module in block.modules() if hasattr(module, "slot")}
            assert slots <= taking_part if number in keep else not slots & taking_part


def test_actuator_runs_each_subnet_with_its_own_statistics(supernet: Supernet) -> None:
    actuator, x = Actuator.of_front(supernet), images(2)
    for index in (0, 2, 1, 1, 0):
        record = supernet.front.subnets[index]
        with torch.inference_mode():
            actuator.actuate(index)
            found = supernet.network(x)
        oracle = small_supernet().network
        assert torch.equal(found, run(oracle, record.spec, supernet.statistics[record.id], x))


def test_actuation_makes_no_tensor(supernet: Supernet) -> None:
    """It swaps what binding made: the slots hold the very same objects each time."""
    actuator, conv = Actuator.of_front(supernet), supernet.network.get_submodule("stages.0.0.conv2")
    assert isinstance(conv, SlicedConv2d)
    held = []
    for index in (0, 2, 0, 2):
        actuator.actuate(index)
        held.append(conv.slot.value)
    assert held[0] is held[2]
    assert held[1] is held[3]
    assert held[0] is not held[1]


def test_actuators_of_one_network_may_take_turns(supernet: Supernet) -> None:
    """What another made active in between is undone, though this one was asked for the same subnet before."""
    first, second = Actuator.of_front(supernet), Actuator.of_front(supernet)
    with torch.inference_mode():
        first.actuate(0)
        before = supernet.network(images(2))
        second.actuate(2)
        first.actuate(0)
        assert torch.equal(supernet.network(images(2)), before)


def test_statistics_do_not_change_while_serving(supernet: Supernet) -> None:
    before = {
        key: [value.clone() for found in statistics.values() for value in found.single()]
        for key, statistics in supernet.statistics.items()
    }
    actuator = Actuator.of_front(supernet)
    with torch.inference_mode():
        for index in (0, 1, 2, 0):
            actuator.actuate(index)
            supernet.network(images(4, seed=index) * 100)
    for key, statistics in supernet.statistics.items():
        after = [value for found in statistics.values() for value in found.single()]
        assert all(torch.equal(a, b) for a, b in zip(before[key], after, strict=True))


def test_subnets_share_the_views_that_they_have_in_common(supernet: Supernet) -> None:
    """Views of one layer and size are one object: hundreds of subnets would fill memory with them."""
    actuator, spec = Actuator.of_front(supernet), supernet.front.subnets[1].spec
    statistics = random_statistics(supernet.network, spec, seed=9)
    pair = Actuator(supernet.network, {0: (spec, statistics), 1: (spec, supernet.statistics["s1"])})
    stem, norm = supernet.network.get_submodule("stem"), supernet.network.get_submodule("stem_norm")
    assert isinstance(stem, SlicedConv2d)
    assert isinstance(norm, SubnetNorm)
    pair.actuate(0)
    weights, first = stem.slot.value, norm.slot.value
    pair.actuate(1)
    assert stem.slot.value is weights
    assert norm.slot.value.scale is first.scale
    assert first.statistics is statistics["stem_norm"]
    assert norm.slot.value.statistics is supernet.statistics["s1"]["stem_norm"]
    actuator.actuate(1)
    assert stem.slot.value is not weights, "another actuator made views of its own"


def test_two_networks_do_not_influence_each_other() -> None:
    """State is the instance's: no class or module holds a switch."""
    first, second = small_network(), small_network()
    small, large = first.space.smallest(), first.space.largest()
    before = run(first, small, random_statistics(first, small), images(2))
    run(second, large, random_statistics(second, large), images(2))
    with torch.inference_mode():
        assert torch.equal(first(images(2)), before)


def test_illegal_subnet_is_refused() -> None:
    largest = NETWORK.space.largest()
    outside = SubnetSpec(largest.keep, (("stem", 0.1), *largest.widths[1:]))
    with pytest.raises(IllegalSubnetError, match=r"'stem' = 0.1"):
        bind(NETWORK, outside, None)


def test_sampled_fronts_bind(supernet: Supernet) -> None:
    rng = np.random.default_rng(3)
    chosen = [supernet.network.space.sample(rng) for _ in range(5)]
    Actuator(
        supernet.network,
        {index: (spec, random_statistics(supernet.network, spec)) for index, spec in enumerate(chosen)},
    ).actuate(4)
