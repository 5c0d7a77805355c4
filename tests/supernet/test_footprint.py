"""Memory and actuation of SubNetAct on OFA-ResNet50."""

from superserve.supernet.footprint import SUBNETS, measure_footprint


def test_one_supernet_is_smaller_than_its_subnets_apart() -> None:
    """The largest model is the supernet but for its statistics; models grow from one to the next."""
    found = measure_footprint()
    assert len(found.models_bytes) == SUBNETS
    assert list(found.models_bytes) == sorted(set(found.models_bytes))
    assert found.supernet_bytes <= found.models_bytes[-1] < 1.01 * found.supernet_bytes
    assert 1.5 < found.saving < SUBNETS
    assert 0 < found.actuation_us[0] <= found.actuation_us[1]
