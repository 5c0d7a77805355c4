"""The OFA families against the ``ofa`` package: same weights, same subnets, each side's own calibration.

In float64, where rounding hides nothing: what is compared is the arithmetic. In float32 the two calibrations sum in
another order, which random networks of fifty layers amplify; there the forward alone is compared, with the oracle's
statistics on both sides.
"""

import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from superserve.subnet import SubnetSpec
from superserve.supernet.actuator import apply, bind
from superserve.supernet.calibrate import calibrate
from superserve.supernet.extract import extract
from superserve.supernet.importing.checkpoint import Picker, read_checkpoint
from superserve.supernet.importing.family import Family
from superserve.supernet.importing.ofa_mobilenet import OfaMobileNetV3Importer
from superserve.supernet.importing.ofa_proxyless import OfaProxylessImporter
from superserve.supernet.importing.ofa_resnet50 import OfaResNet50Importer
from superserve.supernet.network import ElasticNetwork
from superserve.supernet.operators import NormStatistics, SlicedConv2d, Statistics
from support.peers import ofa

CONFIGURATIONS = 50
CLASSES = 20
TOLERANCE = 1e-5
#: Where another library adds the same products up in another order, over some 50 layers.
OTHER_ORDER = 1e-4
SIZE = 48


def _resnet() -> Any:
    # The published network (model_zoo.py of ofa), with fewer classes.
    return ofa().OFAResNets(
        n_classes=CLASSES,
        dropout_rate=0,
        depth_list=[0, 1, 2],
        expand_ratio_list=[0.2, 0.25, 0.35],
        width_mult_list=[0.65, 0.8, 1.0],
    )


def _mobilenet(width: float) -> Any:
    return ofa().OFAMobileNetV3(
        n_classes=CLASSES,
        dropout_rate=0,
        width_mult=width,
        ks_list=[3, 5, 7],
        expand_ratio_list=[3, 4, 6],
        depth_list=[2, 3, 4],
    )


def _proxyless() -> Any:
    return ofa().OFAProxylessNASNets(
        n_classes=CLASSES,
        dropout_rate=0,
        width_mult=1.3,
        ks_list=[3, 5, 7],
        expand_ratio_list=[3, 4, 6],
        depth_list=[2, 3, 4],
    )


CASES: dict[str, tuple[Callable[[], Any], Family[Any, Any]]] = {
    "ofa_resnet50": (_resnet, OfaResNet50Importer()),
    "ofa_mobilenet_v3 w1.0": (lambda: _mobilenet(1.0), OfaMobileNetV3Importer()),
    "ofa_mobilenet_v3 w1.2": (lambda: _mobilenet(1.2), OfaMobileNetV3Importer()),
    "ofa_proxyless": (_proxyless, OfaProxylessImporter()),
}


def _pair(name: str, dtype: torch.dtype) -> tuple[Any, ElasticNetwork, Family[Any, Any]]:
    """The oracle with random weights, and our network imported from its state_dict."""
    make, importer = CASES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        oracle = make().eval().requires_grad_(requires_grad=False)
        for key, parameter in oracle.named_parameters():
            if "bn" in key:
                nn.init.uniform_(parameter, *((0.5, 1.5) if key.endswith("weight") else (-0.5, 0.5)))
            elif "matrix" in key:
                parameter.add_(0.1 * torch.randn_like(parameter))
    _, network = importer.read(Picker(oracle.state_dict(), Path("oracle"), {}))
    return oracle.to(dtype), network.to(dtype), importer


def _batches(seed: int, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(rows, 3, SIZE, SIZE, dtype=dtype, generator=generator) for rows in (3, 2)]


def _subnets(oracle: Any, importer: Family[Any, Any], network: ElasticNetwork, count: int) -> Iterator[Any]:
    """Random configurations, each active in the oracle when its spec is handed out."""
    random.seed(0)
    for _ in range(count):
        yield importer.spec(network, oracle.sample_active_subnet())


@pytest.mark.parametrize("name", CASES)
def test_every_subnet_computes_what_ofa_computes(name: str) -> None:
    oracle, network, importer = _pair(name, torch.float64)
    seen = set()
    with torch.no_grad():
        for seed, spec in enumerate(_subnets(oracle, importer, network, CONFIGURATIONS)):
            batches = _batches(seed, torch.float64)
            ofa().set_running_statistics(oracle, [(batch, None) for batch in batches])
            apply(bind(network, spec, calibrate(network, spec, batches)))
            expected = oracle(batches[0])
            assert (network(batches[0]) - expected).abs().max() <= TOLERANCE, spec
            assert expected.std() > 0.01, "logits too alike to compare"
            seen.add(spec)
    assert len(seen) == CONFIGURATIONS


@pytest.mark.parametrize("name", CASES)
def test_forward_in_float32(name: str) -> None:
    """Also the extracted subnet's, against the subnet that OFA extracts; on the kernels that torch chooses for both."""
    oracle, network, importer = _pair(name, torch.float32)
    convolutions = [module for module in network.modules() if isinstance(module, SlicedConv2d)]
    with torch.no_grad():
        for seed, spec in enumerate(_subnets(oracle, importer, network, 5)):
            batches = _batches(seed, torch.float32)
            ofa().set_running_statistics(oracle, [(batch, None) for batch in batches])
            statistics = _statistics(oracle, importer, network, spec)
            apply(bind(network, spec, statistics))
            expected = oracle.get_active_subnet().eval()(batches[0])
            for as_torch, tolerance in ((False, OTHER_ORDER), (True, TOLERANCE)):
                for convolution in convolutions:
                    convolution.as_torch = as_torch
                assert (network(batches[0]) - expected).abs().max() <= tolerance, spec
            assert (extract(network, spec, statistics)(batches[0]) - expected).abs().max() <= TOLERANCE, spec


def _statistics(oracle: Any, importer: Family[Any, Any], network: ElasticNetwork, spec: SubnetSpec) -> Statistics:
    """What the oracle holds for its active subnet, under our names."""
    state = oracle.state_dict()
    theirs = {ours: next(name for name in names if name in state) for ours, names in importer.names(network)}
    found = {}
    for norm, count in network.geometry(spec).channels.items():
        prefix = theirs[f"{norm}.weight"].removesuffix("weight")
        mean, variance = (state[f"{prefix}{part}"][:count].clone() for part in ("running_mean", "running_var"))
        found[norm] = NormStatistics(mean, variance)
    return found


def _old(name: str) -> str:
    """A name as the oldest files have it."""
    name = re.sub(r"^(blocks\.\d+)\.conv\.", r"\1.mobile_inverted_conv.", name)
    return (
        name.replace(".linear.linear.", ".linear.")
        .replace(".bn.bn.", ".bn.")
        .replace(".conv.conv.weight", ".conv.weight")
    )


@pytest.mark.parametrize("name", ["ofa_resnet50", "ofa_mobilenet_v3 w1.2", "ofa_proxyless"])
def test_old_files_are_read_as_ofa_reads_them(name: str, tmp_path: Path) -> None:
    """The same file loaded by OFA's own ``load_state_dict``, which is what says that it is a valid old one."""
    make, importer = CASES[name]
    oracle, _, _ = _pair(name, torch.float32)
    torch.save({"state_dict": {_old(key): tensor for key, tensor in oracle.state_dict().items()}}, tmp_path / "old")
    theirs = make()
    theirs.load_state_dict(torch.load(tmp_path / "old", weights_only=True)["state_dict"])
    picker = Picker(read_checkpoint(tmp_path / "old"), tmp_path / "old", {})
    _, network = importer.read(picker)
    _, expected = importer.read(Picker(theirs.state_dict(), tmp_path / "new", {}))
    assert picker.renamed > 150
    found = network.state_dict()
    assert all(torch.equal(found[key], tensor) for key, tensor in expected.state_dict().items())
