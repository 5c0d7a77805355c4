import pytest
import torch

from superserve.supernet.actuator import apply, bind
from superserve.supernet.calibrate import calibrate
from superserve.supernet.operators import SubnetNorm
from support.supernets import images, small_network


@pytest.fixture(name="spec_index", params=["smallest", "largest"])
def _spec_index(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_statistics_of_one_batch_reproduce_batch_normalisation(spec_index: str) -> None:
    """Frozen at one batch's statistics, the subnet computes on that batch what it computed while calibrating."""
    network = small_network()
    spec = getattr(network.space, spec_index)()
    x = images(16)
    statistics = calibrate(network, spec, [x])
    with torch.inference_mode():
        while_calibrating = network(x)
        apply(bind(network, spec, statistics))
        torch.testing.assert_close(network(x), while_calibrating, rtol=1e-4, atol=1e-4)


def test_batches_are_averaged_by_rows() -> None:
    """OFA's recipe: the mean of batch means and of biased batch variances, not the variance of pooled data."""
    network = small_network()
    spec = network.space.smallest()
    parts = [images(2, seed=1), 5 + 3 * images(6, seed=2)]
    found = calibrate(network, spec, parts)["stem_norm"]
    layer = network.get_submodule("stem")
    with torch.no_grad():
        outputs = [layer(part) for part in parts]
    mean = sum(len(y) * y.mean((0, 2, 3)) for y in outputs) / 8
    variance = sum(len(y) * y.var((0, 2, 3), correction=0) for y in outputs) / 8
    torch.testing.assert_close(found.mean, mean)
    torch.testing.assert_close(found.variance, variance)
    pooled = torch.cat(outputs).var((0, 2, 3), correction=0)
    assert not torch.allclose(found.variance, pooled, rtol=0.1)


def test_covers_exactly_the_norms_that_take_part() -> None:
    network = small_network()
    for spec in (network.space.smallest(), network.space.largest()):
        statistics = calibrate(network, spec, [images(4)])
        assert {name: len(found.mean) for name, found in statistics.items()} == network.geometry(spec).channels


def test_leaves_no_hook_and_no_changed_parameter() -> None:
    network = small_network()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    calibrate(network, network.space.largest(), [images(4)])
    after = network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    norms = [module for module in network.modules() if isinstance(module, SubnetNorm)]
    assert not any(norm._forward_pre_hooks for norm in norms)
