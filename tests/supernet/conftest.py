from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from superserve.model_folder import ModelFolder
from superserve.supernet.hub import save_supernet
from superserve.supernet.network import Supernet
from superserve.supernet.zoo.ofa_resnet import OfaResNet
from support.supernets import small_network, small_supernet


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """Small networks gain nothing by a second thread, and on a busy machine wait for it: 1 s became 57 s."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def network() -> OfaResNet:
    return small_network()


@pytest.fixture
def supernet() -> Supernet:
    return small_supernet()


@pytest.fixture
def folder(supernet: Supernet, tmp_path: Path) -> ModelFolder:
    return save_supernet(supernet, tmp_path / "small")
