"""One subnet as a module of its own."""

import numpy as np
import torch

from superserve.model_folder import ModelFolder
from superserve.supernet.bound import bound_subnets
from superserve.supernet.compiled import module_tensors
from superserve.supernet.engine import EagerEngine
from superserve.supernet.hub import load_supernet
from superserve.supernet.network import Supernet
from support.supernets import pixels


def test_it_computes_what_the_engine_computes_in_any_order(supernet: Supernet) -> None:
    engine, images = EagerEngine(supernet), pixels(4)
    bound = bound_subnets(supernet)
    with torch.inference_mode():
        for index in (2, 0, 1, 0):
            found = bound[index](torch.from_numpy(images)).numpy()
            np.testing.assert_array_equal(found, engine.run(index, [images])[0])


def test_its_tensors_are_the_networks_own(folder: ModelFolder) -> None:
    """Weights whole, from the mapped file; statistics of the subnet alone."""
    supernet = load_supernet(folder)
    weights = {name: tensor.data_ptr() for name, tensor in supernet.network.named_parameters()}
    for bound, record in zip(bound_subnets(supernet), supernet.front.subnets, strict=True):
        tensors = module_tensors(bound)
        shared = {name: tensor.data_ptr() for name, tensor in tensors.items() if name.startswith("network.")}
        assert shared == {f"network.{name}": pointer for name, pointer in weights.items()}
        own = {tensor.data_ptr() for name, tensor in tensors.items() if not name.startswith("network.")}
        statistics = supernet.statistics[record.id]
        assert own == {tensor.data_ptr() for norm in statistics.values() for tensor in norm.single()}


def test_chosen_subnets_come_in_the_order_asked_for(supernet: Supernet) -> None:
    images = pixels(2)
    engine = EagerEngine(supernet)
    last, first = bound_subnets(supernet, only=[2, 0])
    with torch.inference_mode():
        for module, index in ((last, 2), (first, 0)):
            np.testing.assert_array_equal(module(torch.from_numpy(images)).numpy(), engine.run(index, [images])[0])
