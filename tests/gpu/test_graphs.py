"""What needs a GPU: `make test-gpu`. How fast it is, is for `make bench-gpu` to say."""

import mmap

import numpy as np
import pytest
import torch

from superserve.engine import EngineChoice
from superserve.model_folder import ModelFolder
from superserve.serving.devices import batch_grid
from superserve.serving.engines import load_engine
from superserve.supernet.accuracy import TOLERANCE, relative_error
from superserve.supernet.engine import EagerEngine
from superserve.supernet.graphs import Cell, GraphEngine, GraphLimits
from superserve.supernet.graphs.cuda import CudaDevice
from superserve.supernet.hub import load_supernet

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")]


def engine_of(folder: ModelFolder, limits: GraphLimits | None = None) -> GraphEngine:
    supernet = load_supernet(folder).to("cuda")
    return GraphEngine(supernet, CudaDevice(), batches=batch_grid(folder.config.max_batch_size), limits=limits)


def capture_all(engine: GraphEngine) -> None:
    while engine.spare(None):
        pass


@pytest.mark.parametrize("model", ["digits", "cifar10", "intents"])
def test_graphs_compute_what_eager_computes(model: str) -> None:
    """Every subnet at every profiled batch size, and at one row less, once eagerly and once by a graph."""
    folder = ModelFolder.resolve(model)
    engine = load_engine(folder, EngineChoice("cuda", "graphs", "float32"))
    assert isinstance(engine, GraphEngine)
    eager = EagerEngine.load(folder, device="cuda")
    most = folder.config.max_batch_size
    examples = folder.example_inputs(most, np.random.default_rng(0))
    sizes = sorted({rows for batch in batch_grid(most) for rows in (batch, max(1, batch - 1))})
    for _ in range(2):
        for subnet in range(len(engine.subnet_ids)):
            for rows in sizes:
                batch = [np.resize(array, (most, *array.shape[1:]))[:rows] for array in examples]
                expected = [output.copy() for output in eager.run(subnet, batch)]
                assert relative_error(engine.run(subnet, batch), expected) <= TOLERANCE["float32"]
                assert engine.device_ns > 0
        capture_all(engine)
    assert not engine.holdings.refused
    wanted = {Cell(subnet, rows, ()) for subnet in range(len(engine.subnet_ids)) for rows in batch_grid(most)}
    assert {cell._replace(shapes=()) for cell in engine.holdings.held} == wanted


def test_two_batches_in_flight_from_pinned_shared_memory() -> None:
    """Inputs are read where the router writes them; each batch gets its own outputs."""
    folder = ModelFolder.resolve("digits")
    engine, eager = engine_of(folder), EagerEngine(load_supernet(folder))
    examples = folder.example_inputs(16, np.random.default_rng(0))[0]
    region = mmap.mmap(-1, 2 * examples.nbytes)
    engine.pin(np.frombuffer(region, np.uint8))
    slots = [
        np.frombuffer(region, examples.dtype, examples.size, slot * examples.nbytes).reshape(examples.shape)
        for slot in range(2)
    ]
    for round_ in range(20):
        if round_ == 10:
            capture_all(engine)
        for slot in range(2):
            slots[slot][...] = np.roll(examples, round_ + slot, axis=0)
            engine.submit((round_ + slot) % len(engine.subnet_ids), [slots[slot][: 16 - slot]])
        for slot in range(2):
            (found,) = engine.collect()
            (expected,) = eager.run((round_ + slot) % len(engine.subnet_ids), [slots[slot][: 16 - slot]])
            assert relative_error([found], [expected]) <= TOLERANCE["float32"]


def test_the_memory_of_graphs_is_bounded_and_given_back() -> None:
    """A pool of a byte holds nothing: every cell is captured once, and stays eager."""
    folder = ModelFolder.resolve("digits")
    engine = engine_of(folder, GraphLimits(pool_bytes=1))
    examples = folder.example_inputs(4, np.random.default_rng(0))
    before = torch.cuda.memory_reserved()
    for subnet in range(len(engine.subnet_ids)):
        engine.run(subnet, examples)
    capture_all(engine)
    assert not engine.holdings.held
    assert len(engine.holdings.refused) == len(engine.subnet_ids)
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() <= before + 2**21


def test_a_forward_that_waits_for_the_gpu_stays_eager() -> None:
    folder = ModelFolder.resolve("digits")
    supernet = load_supernet(folder).to("cuda")

    def wait(_module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        inputs[0].sum().item()

    supernet.network.register_forward_pre_hook(wait)
    engine = GraphEngine(supernet, CudaDevice(), batches=(1, 4))
    examples = folder.example_inputs(4, np.random.default_rng(0))
    expected = engine.run(0, examples)[0].copy()
    capture_all(engine)
    assert not engine.holdings.held
    np.testing.assert_array_equal(engine.run(0, examples)[0], expected)
