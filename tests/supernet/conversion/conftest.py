from collections.abc import Iterator

import pytest
import torch

from superserve.supernet.conversion import adapters, register_adapter
from support.adapted_models import (
    DenseBlock,
    Turned,
    TurnedAttention,
    dense_block,
    fused_attention,
    turned,
    turned_attention,
)
from support.plain_models import FusedAttention


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Layers this small only wait for each other on several threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def own_adapters(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is forgotten after it."""
    monkeypatch.setattr(adapters, "_ADAPTERS", dict(adapters._ADAPTERS))


@pytest.fixture
def adapted(own_adapters: None) -> None:
    """All adapters of `support.adapted_models`."""
    register_adapter(FusedAttention)(fused_attention)
    register_adapter(Turned)(turned)
    register_adapter(TurnedAttention)(turned_attention)
    register_adapter(DenseBlock)(dense_block)
