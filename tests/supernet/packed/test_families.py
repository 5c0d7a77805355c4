"""Every family, packed: what eager float32 gives, at batch sizes that the trace did not see."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from superserve.subnet import SubnetSpec
from superserve.supernet.accuracy import TOLERANCE, relative_error
from superserve.supernet.actuator import apply, bind
from superserve.supernet.aot import EXAMPLE_ROWS
from superserve.supernet.bound import BoundSubnet
from superserve.supernet.compiled import module_tensors
from superserve.supernet.conversion.convert import convert
from superserve.supernet.network import ElasticNetwork
from superserve.supernet.packed.build import About, write_packed
from superserve.supernet.packed.fuse import optimise
from superserve.supernet.packed.module import PackedModule, SharedParts
from superserve.supernet.packed.trace import Traced, graph_of
from superserve.supernet.zoo import build_network
from support.plain_models import ResidualCnn
from support.supernets import random_statistics

# torch's tracer warns about parts of torch.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")]

ARCHITECTURES: Mapping[str, dict[str, Any]] = {
    "ofa_resnet50": {"classes": 5, "stem_width": 32, "stage_widths": [32, 64], "base_depths": [2, 1]},
    "ofa_mobilenet_v3": {"classes": 5, "width_mult": 0.3},
    "dynabert": {
        "classes": 5, "vocabulary": 30000, "hidden": 192, "layers": 2, "heads": 4, "neurons": 768, "positions": 64,
        "depth_ratios": [0.5, 1.0],
    },
}  # fmt: skip


def _images(rows: int) -> list[Tensor]:
    return [torch.randn(rows, 3, 32, 32, generator=torch.Generator().manual_seed(rows))]


def _texts(rows: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(rows)
    lengths = torch.randint(5, 40, (rows, 1), generator=generator)
    return [torch.randint(1, 300, (rows, 40), generator=generator), (torch.arange(40) < lengths).long()]


def _as_they_are(inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return tuple(inputs)


def _network(family: str) -> ElasticNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = _converted() if family == "converted" else _of_zoo(family)
    return network.requires_grad_(requires_grad=False).eval()


def _converted() -> ElasticNetwork:
    model: nn.Module = ResidualCnn()
    convert(model, _images(2)[0])
    assert isinstance(model, ElasticNetwork)
    return model


def _of_zoo(family: str) -> ElasticNetwork:
    network = build_network(family, ARCHITECTURES[family])
    for name, parameter in network.named_parameters():
        if parameter.dim() == 1:
            nn.init.uniform_(parameter, 0.2, 1.0)
        elif "matrix" in name:
            nn.init.normal_(parameter, std=0.3)
    return network


@pytest.mark.parametrize("end", ["smallest", "largest"])
@pytest.mark.parametrize("family", [*ARCHITECTURES, "converted"])
def test_a_packed_subnet_gives_what_eager_gives(family: str, end: str, tmp_path: Path) -> None:
    network = _network(family)
    inputs: Callable[[int], Sequence[Tensor]] = _texts if family == "dynabert" else _images
    spec: SubnetSpec = getattr(network.space, end)()
    statistics = random_statistics(network, spec)
    with torch.inference_mode():
        bound = BoundSubnet(network, spec, statistics, _as_they_are, {}).eval()
        graph = graph_of(bound, bound, inputs(EXAMPLE_ROWS))
        optimise(graph, torch.float32)
        tensors = module_tensors(network)
        write_packed(Traced(graph, tensors, "requests"), About("hash", "subnet", "float32"), tmp_path / "packed")
        module = PackedModule.load(tmp_path / "packed", SharedParts("hash", tensors, _as_they_are))
        apply(bind(network, spec, statistics))
        for rows in (1, 3, 16):
            expected = network(*inputs(rows))
            (found,) = module.run(inputs(rows))
            assert relative_error([found.numpy()], [expected.numpy()]) <= TOLERANCE["float32"]
    if family == "dynabert":
        # Embeddings are most of its bytes, and are read where they lie.
        assert module.nbytes <= sum(tensor.nbytes for name, tensor in tensors.items() if "embedding" not in name)
