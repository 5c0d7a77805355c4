"""Sums are written over one of their parts only where nothing reads that part again."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from superserve.supernet.aot import EXAMPLE_ROWS, trace, without_writes
from superserve.supernet.compiled import module_tensors
from superserve.supernet.packed.build import About, write_packed
from superserve.supernet.packed.fuse import optimise
from superserve.supernet.packed.graph import Graph
from superserve.supernet.packed.module import PackedModule, SharedParts
from superserve.supernet.packed.trace import Traced


class ReadTwice(nn.Module):
    """A batch that is added to what comes of it, and then once more."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """(rows, 8, h, w), shape kept."""
        first = torch.relu(self.convs[0](x))
        second = torch.relu(self.convs[1](first) + first)
        return self.convs[2](second) + first  # type: ignore[no-any-return]


class AddedToItself(nn.Module):
    """A batch to which what one layer makes of it is added."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """(rows, 8, h, w), shape kept."""
        first = torch.relu(self.convs[0](x))
        return torch.relu(self.convs[1](first) + first)


class AddedLater(nn.Module):
    """A layer that reads a batch early, and becomes part of a sum behind the one that is written over that batch."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """(rows, 8, h, w), shape kept."""
        first = torch.relu(self.convs[0](x))
        beside = self.convs[1](first)
        second = torch.relu(self.convs[2](torch.relu(self.convs[3](x))) + first)
        return torch.relu(beside + second)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("network", [ReadTwice, AddedToItself, AddedLater])
def test_a_batch_that_is_read_again_is_not_written_over(network: type[nn.Module], tmp_path: Path) -> None:
    module, x = network().eval().requires_grad_(requires_grad=False), torch.randn(EXAMPLE_ROWS, 8, 6, 6)
    x = x.to(memory_format=torch.channels_last)
    tensors = module_tensors(module)
    with torch.inference_mode():
        graph = Graph(without_writes(trace(module, (x,))), tensors, tensors)
        optimise(graph, torch.float32)
        write_packed(Traced(graph, tensors, "requests"), About("hash", "subnet", "float32"), tmp_path / "packed")
        packed = PackedModule.load(tmp_path / "packed", SharedParts("hash", tensors, tuple))  # type: ignore[arg-type]
        torch.testing.assert_close(packed.run([x])[0], module(x), rtol=1e-4, atol=1e-5)
