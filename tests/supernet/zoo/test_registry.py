import msgspec
import pytest

from superserve.errors import ConfigError
from superserve.supernet.zoo import build_network, families
from superserve.supernet.zoo.ofa_resnet import OfaResNet
from support.supernets import SMALL


def test_builds_by_name() -> None:
    network = build_network("ofa_resnet", msgspec.to_builtins(SMALL))
    assert isinstance(network, OfaResNet)
    assert network.config == SMALL
    assert "ofa_resnet" in families()


def test_unknown_family_lists_the_known() -> None:
    with pytest.raises(ConfigError, match=r"'vgg' is not one of .*ofa_resnet"):
        build_network("vgg", {})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 3}, "unknown field `depth`"),
        ({"classes": 0}, "must be positive"),
        ({"stages": []}, "number of stages"),
        ({"width_ratios": [1.0, 0.5]}, "rise strictly"),
        ({"width_ratios": [0.5, 0.9]}, "must end with 1"),
        ({"expand_ratios": []}, "expand_ratios"),
        ({"stages": [{"width": 8, "stride": 3, "depths": [1]}]}, "stride 3"),
        ({"stages": [{"width": 8, "stride": 1, "depths": [0, 1]}]}, "at least 1"),
    ],
)
def test_impossible_architectures_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_network("ofa_resnet", msgspec.to_builtins(SMALL) | change)
