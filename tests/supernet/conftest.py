from pathlib import Path

import pytest

from superserve.model_folder import ModelFolder
from superserve.supernet.hub import save_supernet
from superserve.supernet.network import Supernet
from superserve.supernet.zoo.ofa_resnet import OfaResNet
from support.supernets import small_network, small_supernet


@pytest.fixture
def network() -> OfaResNet:
    return small_network()


@pytest.fixture
def supernet() -> Supernet:
    return small_supernet()


@pytest.fixture
def folder(supernet: Supernet, tmp_path: Path) -> ModelFolder:
    return save_supernet(supernet, tmp_path / "small")
