"""The oracle: an actuated subnet computes what the same subnet computes as a module of its own."""

import pytest
import torch
from hypothesis import given
from torch import nn

from superserve.errors import IllegalSubnetError
from superserve.subnet import SubnetSpec
from superserve.supernet.actuator import apply, bind
from superserve.supernet.extract import extract
from superserve.supernet.operators import LayerSelect, SlicedConv2d, SlicedLinear, SubnetNorm
from support.supernets import images, random_statistics, small_network, specs

NETWORK = small_network()


@given(spec=specs(NETWORK.space))
def test_actuated_equals_extracted(spec: SubnetSpec) -> None:
    statistics, x = random_statistics(NETWORK, spec), images(3)
    with torch.inference_mode():
        apply(bind(NETWORK, spec, statistics))
        found, expected = NETWORK(x), extract(NETWORK, spec, statistics)(x)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert found.abs().max() > 1e-2, "a comparison of zeros shows nothing"


@given(spec=specs(NETWORK.space))
def test_extracted_modules_are_plain_and_of_the_subnets_sizes(spec: SubnetSpec) -> None:
    plain = extract(NETWORK, spec, random_statistics(NETWORK, spec))
    elastic = (LayerSelect, SlicedConv2d, SlicedLinear, SubnetNorm)
    assert not any(isinstance(module, elastic) for module in plain.modules())
    convolutions = [module for module in plain.modules() if isinstance(module, nn.Conv2d)]
    projections = len(spec.keep)
    assert len(convolutions) == 1 + 3 * sum(map(len, spec.keep)) + projections


def test_extracted_module_owns_its_weights() -> None:
    spec = NETWORK.space.largest()
    plain = extract(NETWORK, spec, random_statistics(NETWORK, spec))
    shared = {parameter.untyped_storage().data_ptr() for parameter in NETWORK.parameters()}
    assert not shared & {tensor.untyped_storage().data_ptr() for tensor in plain.state_dict().values()}


def test_extraction_leaves_the_network_alone() -> None:
    network = small_network()
    spec = network.space.largest()
    names = [name for name, _ in network.named_modules()]
    extract(network, spec, random_statistics(network, spec))
    assert [name for name, _ in network.named_modules()] == names
    assert isinstance(network.get_submodule("stages.0"), LayerSelect)


def test_illegal_subnet_is_refused() -> None:
    with pytest.raises(IllegalSubnetError):
        extract(NETWORK, SubnetSpec(((0,),), ()), {})
