"""What the GPU is told, and in which order, with torch's own signatures in the place of a GPU."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import create_autospec

import numpy as np
import pytest
import torch

from superserve.errors import ConfigError
from superserve.supernet.graphs import GraphDevice
from superserve.supernet.graphs.cuda import CudaDevice

CUDA_GRAPH = torch.cuda.CUDAGraph


class Driver:
    """Stands in for what `CudaDevice` calls in `torch.cuda`; remembers the calls and on which stream they were made."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.current = "default"
        self.reserved = [0]
        self.status = 0
        self.fails = False
        self._streams = iter(["copies", "computations"])
        self._pools = iter(range(9))

    def say(self, what: str) -> None:
        self.calls.append(f"{self.current}: {what}")

    def make_stream(self) -> "Stream":
        return Stream(self, next(self._streams))

    @contextmanager
    def stream(self, stream: "Stream") -> Iterator[None]:
        before, self.current = self.current, stream.name
        try:
            yield
        finally:
            self.current = before

    @contextmanager
    def graph(
        self, cuda_graph: object, pool: int, stream: "Stream", capture_error_mode: str = "global"
    ) -> Iterator[None]:
        before, self.current = self.current, stream.name
        assert isinstance(cuda_graph, CUDA_GRAPH)
        self.say(f"capture into pool {pool}, {capture_error_mode}")
        yield
        if self.fails:  # torch, too, leaves the stream the current one then
            self.current = "capture's"
            raise RuntimeError("operation failed due to a previous error during capture")
        self.say("captured")
        self.current = before

    def memory_reserved(self) -> int:
        return self.reserved.pop(0)

    def event(self, *, enable_timing: bool) -> "Event":
        assert enable_timing
        return Event(self, "span")

    def register(self, address: int, size: int, flags: int) -> int:
        self.say(f"pin {size} bytes with flags {flags}")
        assert address
        return self.status


class Event:
    def __init__(self, driver: Driver, name: str) -> None:
        self.driver, self.name = driver, name

    def record(self) -> None:
        self.driver.say(f"record {self.name}")

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        self.driver.say("wait")

    def elapsed_time(self, end: "Event") -> float:
        assert end is not self
        return 1.25


class Stream:
    def __init__(self, driver: Driver, name: str) -> None:
        self.driver, self.name = driver, name

    def record_event(self) -> Event:
        self.driver.say("record copied")
        return Event(self.driver, "copied")

    def wait_event(self, event: Event) -> None:
        self.driver.say(f"wait for {event.name}")


class Runtime:
    def __init__(self, driver: Driver) -> None:
        self.cudaHostRegister = driver.register


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    found = Driver()
    stand_ins = {
        "Stream": found.make_stream,
        "Event": found.event,
        "stream": found.stream,
        "graph": found.graph,
        "graph_pool_handle": lambda: next(found._pools),
        "CUDAGraph": lambda: create_autospec(CUDA_GRAPH, instance=True),
        "synchronize": lambda: found.say("synchronize"),
        "empty_cache": lambda: found.say("empty_cache"),
        "memory_reserved": found.memory_reserved,
        "cudart": lambda: Runtime(found),
    }
    for name, stand_in in stand_ins.items():
        getattr(torch.cuda, name)  # it is there, in this version of torch, too
        monkeypatch.setattr(torch.cuda, name, stand_in)
    return found


def test_is_a_device_of_graphs(driver: Driver) -> None:
    device: GraphDevice = CudaDevice()
    assert device.name == "cuda"


def test_copies_have_a_stream_of_their_own_and_work_follows_them(driver: Driver) -> None:
    """No copy waits for the work of an earlier batch; nothing here waits at all."""
    device, target, source = CudaDevice(), torch.zeros(2), torch.ones(2)
    span = device.submit([target], [source], lambda: driver.say("work"))
    assert driver.calls == [
        "copies: record copied",
        "computations: wait for copied",
        "computations: record span",
        "computations: work",
        "computations: record span",
    ]
    assert target.tolist() == [1, 1]
    assert (span.done(), span.taken_ns()) == (True, 1_250_000)
    assert driver.current == "default"


def test_a_capture_follows_a_warm_up_on_the_stream_that_replays(driver: Driver) -> None:
    driver.reserved = [1_000, 1_700]
    device = CudaDevice()
    graph = device.capture(lambda: driver.say("work"))
    assert driver.calls == [
        "computations: work",
        "computations: synchronize",
        "computations: empty_cache",
        "computations: capture into pool 0, thread_local",
        "computations: work",
        "computations: captured",
    ]
    assert graph.grown_bytes == 700


def test_a_capture_that_fails_leaves_the_current_stream_as_it_was(driver: Driver) -> None:
    driver.reserved, driver.fails = [0, 0], True
    device = CudaDevice()
    with pytest.raises(RuntimeError, match="previous error"):
        device.capture(lambda: None)
    assert driver.current == "default"


def test_another_pool_is_another_handle(driver: Driver) -> None:
    """One whose graphs are all gone must not be captured into again: torch's allocator has forgotten it."""
    driver.reserved = [0] * 4
    device = CudaDevice()
    device.renew_pool()
    device.capture(lambda: None)
    assert "computations: capture into pool 1, thread_local" in driver.calls


def test_memory_of_the_host_is_pinned_where_it_lies(driver: Driver) -> None:
    CudaDevice().pin(np.zeros(4_096, np.uint8))
    assert driver.calls == ["default: pin 4096 bytes with flags 1"]


def test_a_driver_that_cannot_pin_is_told_of(driver: Driver) -> None:
    driver.status = 2
    with pytest.raises(ConfigError, match=r"cannot pin 4096 bytes .*cudaError 2.*--engine eager"):
        CudaDevice().pin(np.zeros(4_096, np.uint8))


def test_the_calls_fit_torchs_signatures() -> None:
    """Of what is called by position or keyword and has no GPU here to complain."""
    inspect.signature(torch.cuda.graph.__init__).bind(
        None, "graph", "pool", "stream", capture_error_mode="thread_local"
    )
    inspect.signature(torch.cuda.Event.__new__).bind(torch.cuda.Event, enable_timing=True)
