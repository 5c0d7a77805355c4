"""The engine of graphs on a device that records operators: what it computes is what eager torch computes."""

import logging
from dataclasses import replace
from functools import cache

import hypothesis.strategies as st
import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn

from superserve.engine import IN_FLIGHT, Engine, OverlappingEngine
from superserve.model_folder import ModelFolder
from superserve.supernet.engine import EagerEngine
from superserve.supernet.graphs import GraphEngine, GraphLimits
from superserve.supernet.hub import load_supernet
from superserve.supernet.network import Supernet
from support.graph_device import RecordingDevice
from support.supernets import TINY, pixels, small_supernet

BATCHES = (1, 2, 4, 8)


@cache
def tiny_supernet() -> Supernet:
    """Made once for all examples: engines change nothing of it but slots, which they set before each use."""
    return small_supernet(architecture=TINY)


def engine_of(supernet: Supernet, device: RecordingDevice | None = None, **limits: int) -> GraphEngine:
    return GraphEngine(supernet, device or RecordingDevice(), batches=BATCHES, limits=GraphLimits(**limits))


def capture_all(engine: GraphEngine) -> None:
    while engine.spare(None):
        pass


def test_is_an_engine_that_overlaps(supernet: Supernet) -> None:
    engine: OverlappingEngine = engine_of(supernet)
    as_engine: Engine = engine
    assert isinstance(as_engine, OverlappingEngine)
    assert not isinstance(EagerEngine(supernet), OverlappingEngine)
    assert (engine.name, engine.dtype, engine.subnet_ids) == ("graphs", "float32", ("s0", "s1", "s2"))


def test_graphs_compute_what_eager_computes(supernet: Supernet) -> None:
    """Every subnet, full batches and others, first eagerly, then by the graph of the next larger batch size."""
    device = RecordingDevice()
    engine, eager = engine_of(supernet, device), EagerEngine(supernet)
    for captured in (False, True):
        for rows in (1, 2, 3, 7):
            for subnet in range(3):
                images = pixels(rows, seed=rows + 10 * captured)
                (expected,) = eager.run(subnet, [images])
                expected = expected.copy()
                (found,) = engine.run(subnet, [images])
                np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        capture_all(engine)
    assert len(device.graphs) == 3 * len(BATCHES)
    assert sum(graph.replays for graph in device.graphs) == 3 * 4


def test_a_graph_knows_its_subnet_whatever_was_actuated_since(supernet: Supernet) -> None:
    engine, images = engine_of(supernet), pixels(2)
    expected = [engine.run(subnet, [images])[0].copy() for subnet in range(3)]
    capture_all(engine)
    other = EagerEngine(supernet)
    for subnet in (2, 0, 1, 0, 2):
        other.run(1, [images])
        np.testing.assert_allclose(engine.run(subnet, [images])[0], expected[subnet], rtol=1e-5, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(
    batches=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 8)), min_size=1, max_size=12),
    ahead=st.lists(st.booleans(), min_size=12, max_size=12),
    late=st.booleans(),
    captured=st.booleans(),
)
def test_two_batches_in_flight_do_not_touch_each_other(
    batches: list[tuple[int, int]], ahead: list[bool], late: bool, captured: bool
) -> None:
    """Whether the device copies at the first or at the last moment, and whoever runs eagerly between graphs."""
    supernet = tiny_supernet()
    engine, eager = engine_of(supernet, RecordingDevice(late=late)), EagerEngine(supernet)
    if captured:
        engine.run(1, [pixels(4)])
        capture_all(engine)
    waiting: list[tuple[int, np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]] = []

    def collect() -> None:
        subnet, images = waiting.pop(0)
        (found,) = engine.collect()
        np.testing.assert_allclose(found, eager.run(subnet, [images])[0], rtol=1e-4, atol=1e-5)

    for number, (subnet, rows) in enumerate(batches):
        images = pixels(rows, seed=number)
        engine.submit(subnet, [images])
        waiting.append((subnet, images))
        if len(waiting) == IN_FLIGHT or not ahead[number]:
            collect()
    while waiting:
        collect()


def test_an_answer_outlives_the_next_one(supernet: Supernet) -> None:
    engine = engine_of(supernet)
    engine.submit(0, [pixels(3)])
    engine.submit(1, [pixels(3, seed=1)])
    (first,) = engine.collect()
    before = first.copy()
    engine.collect()
    np.testing.assert_array_equal(first, before)


def test_done_does_not_wait_and_the_device_says_how_long_it_took(supernet: Supernet) -> None:
    engine = engine_of(supernet, RecordingDevice(looks=2))
    engine.submit(0, [pixels(1)])
    assert [engine.done() for _ in range(3)] == [False, False, True]
    engine.collect()
    assert engine.device_ns > 0


def test_the_least_recently_used_graph_is_released(supernet: Supernet) -> None:
    device = RecordingDevice()
    engine, images = engine_of(supernet, device, graphs=2, after=2), pixels(2)
    for subnet in (0, 1):
        engine.run(subnet, [images])
        capture_all(engine)
    engine.run(0, [images])
    for _ in range(2):
        engine.run(2, [images])
    capture_all(engine)
    assert [cell.subnet for cell in engine.holdings.held] == [0, 2]
    with pytest.raises(AssertionError, match="after its release"):
        device.graphs[1].replay()
    np.testing.assert_allclose(
        engine.run(1, [images])[0], EagerEngine(supernet).run(1, [images])[0], rtol=1e-4, atol=1e-5
    )


def test_a_pool_that_is_too_large_is_given_back_with_all_its_graphs(
    supernet: Supernet, caplog: pytest.LogCaptureFixture
) -> None:
    """The cell that made it so stays eager; the others come back."""
    probe = RecordingDevice()
    sizes = engine_of(supernet, probe)
    for rows in (1, 8):
        sizes.run(2, [pixels(rows)])
        capture_all(sizes)
    small, more = (graph.grown_bytes for graph in probe.graphs)
    assert more > 0
    device = RecordingDevice()
    engine = engine_of(supernet, device, pool_bytes=small + more - 1)
    for rows in (1, 8, 1, 8):
        engine.run(2, [pixels(rows)])
        capture_all(engine)
    assert [cell.rows for cell in engine.holdings.held] == [1]
    assert [cell.rows for cell in engine.holdings.refused] == [8]
    assert device.pools == 2
    assert caplog.messages == [
        "subnet 's2' at 8 rows of ((9, 9, 2),) stays eager, because its graph needs too much memory"
    ]


def test_what_cannot_be_captured_stays_eager_and_is_told_once(
    supernet: Supernet, caplog: pytest.LogCaptureFixture
) -> None:
    device = RecordingDevice()
    engine, images = engine_of(supernet, device), pixels(2)
    device.broken = True
    (expected,) = engine.run(1, [images])
    expected = expected.copy()
    for _ in range(3):
        capture_all(engine)
        np.testing.assert_array_equal(engine.run(1, [images])[0], expected)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "subnet 's1' at 2 rows" in record.message
    assert "not permitted when stream is capturing" in record.message
    device.broken = False
    engine.run(0, [images])
    capture_all(engine)
    assert [cell.subnet for cell in engine.holdings.held] == [0], "others are captured"


def test_a_forward_that_waits_for_the_device_cannot_be_captured(supernet: Supernet) -> None:
    """As on a GPU; on others it would go unnoticed until somebody has one."""

    def wait(_module: nn.Module, inputs: tuple[Tensor]) -> None:
        inputs[0].sum().item()

    supernet.network.register_forward_pre_hook(wait)
    engine = engine_of(supernet)
    engine.run(0, [pixels(1)])
    capture_all(engine)
    assert engine.holdings.held == ()


def test_a_batch_that_raises_leaves_the_engine_as_it_was(supernet: Supernet) -> None:
    engine, images = engine_of(supernet), pixels(2)
    with pytest.raises(RuntimeError):
        engine.run(0, [np.zeros((2, 9, 9, 5), np.uint8)])
    assert engine.run(0, [images])[0].shape == (2, 5)


def test_bfloat16_inputs_are_bits_to_numpy_and_numbers_to_torch(supernet: Supernet) -> None:
    images = pixels(2)
    bits = torch.from_numpy(images).to(torch.bfloat16).view(torch.uint16).numpy()
    inputs = (msgspec.structs.replace(supernet.config.inputs[0], datatype="BF16"),)
    half = replace(supernet, config=msgspec.structs.replace(supernet.config, inputs=inputs))
    np.testing.assert_array_equal(engine_of(half).run(0, [bits])[0], engine_of(supernet).run(0, [images])[0])


def test_texts_have_a_graph_per_length() -> None:
    """They are cut into pieces on the host; the network's arguments are what is uploaded."""
    folder = ModelFolder.resolve("intents")
    supernet, device = load_supernet(folder), RecordingDevice()
    engine = GraphEngine(supernet, device, batches=(1, 4))
    eager = EagerEngine(supernet)
    (texts,) = folder.example_inputs(16, np.random.default_rng(0))
    for captured in (False, True):
        for row in (0, 4, 8):
            batch = [texts[row : row + 3]]
            np.testing.assert_allclose(engine.run(0, batch)[0], eager.run(0, batch)[0], rtol=1e-3, atol=1e-4)
        long = [folder.config.inputs[0].longest(2)]
        np.testing.assert_allclose(engine.run(0, long)[0], eager.run(0, long)[0], rtol=1e-3, atol=1e-4)
        if not captured:
            capture_all(engine)
    assert len({cell.shapes for cell in engine.holdings.held}) > 1
    assert sum(graph.replays for graph in device.graphs) == 4
