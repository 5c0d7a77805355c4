"""The engine of graphs in a worker's loop, on slots that the router writes: from messages to outputs."""

import os
import socket
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from superserve.engine import IN_FLIGHT
from superserve.serving.ipc import (
    Done,
    Launch,
    Ready,
    RouterSlots,
    Setup,
    SlotLayout,
    WorkerSpec,
    router_channel,
    worker_channel,
)
from superserve.serving.pool import Batch
from superserve.serving.worker import run_worker
from superserve.supernet.engine import EagerEngine
from superserve.supernet.graphs import GraphEngine
from support.graph_device import RecordingDevice
from support.supernets import TINY, pixels, small_supernet


def test_cells_have_graphs_before_the_worker_is_ready_and_batches_in_flight_their_own_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it is profiled at, from its first batch on, is what it does."""
    supernet, device = small_supernet(architecture=TINY), RecordingDevice(late=True, looks=2)
    engine, eager = GraphEngine(supernet, device, batches=(1, 2, 4)), EagerEngine(supernet)
    monkeypatch.setattr("superserve.serving.worker.load_engine", lambda _: engine)
    config = supernet.config
    spec = WorkerSpec(
        engine="none",
        options={},
        inputs=config.inputs,
        outputs=config.outputs,
        max_rows=4,
        warm_batches=(1, 2, 4),
        in_flight=IN_FLIGHT,
    )
    layout = SlotLayout(spec)
    memory_fd = os.memfd_create("test")
    os.ftruncate(memory_fd, layout.size)
    slots = RouterSlots(layout, layout.map(memory_fd))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    router, worker = router_channel(ours), worker_channel(theirs)
    router.send(Setup(0, spec))
    batches = {1: (2, pixels(3)), 2: (0, pixels(4, seed=1))}
    submit = engine.submit

    def submit_as_the_router_wrote(subnet: int, inputs: Sequence[npt.NDArray[Any]]) -> None:
        if len(device.graphs) == 9:  # warm: no router writes before
            for seq, (chosen, images) in batches.items():
                slots.write(Batch(chosen, len(images), [[images.tobytes()]]), seq)
        submit(subnet, inputs)

    monkeypatch.setattr(engine, "submit", submit_as_the_router_wrote)
    for seq, (subnet, images) in batches.items():
        router.send(Launch(seq, subnet, len(images)))
    router.half_close()
    assert run_worker(worker, memory_fd) == 0
    assert len(device.graphs) == 9
    assert sum(graph.replays for graph in device.graphs) == len(batches)
    assert device.pinned == [layout.size]
    ready = router.receive()
    assert isinstance(ready, Ready)
    assert (ready.engine, ready.subnet_ids) == ("graphs", ("s0", "s1", "s2"))
    for seq, (subnet, images) in batches.items():
        done = router.receive()
        assert isinstance(done, Done)
        assert done.seq == seq
        assert done.device_ns > 0
        found = np.frombuffer(bytes(slots.outputs(seq, len(images))[0]), "<f4").reshape(-1, 5)
        np.testing.assert_allclose(found, eager.run(subnet, [images])[0], rtol=1e-4, atol=1e-5)
    for end in (router, worker, slots):
        end.close()
    os.close(memory_fd)
