"""What every test of this folder needs."""

from collections.abc import Iterator

import pytest
import torch

from support.peers import import_torchvision

# timm, transformers and ofa all import torchvision, whose operators must have been declared by then.
import_torchvision()


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small networks on a busy machine lose more by a second thread than they gain."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
