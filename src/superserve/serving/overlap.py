"""What a worker does whose engines overlap batches: it begins the next one while a device computes one.

Answers come in the order of the batches all the same. While a batch is computed, the worker looks for its end and for
the next message in turns, without sleeping: so does the driver itself while it waits for a GPU, for to be woken up
takes longer than many a subnet.
"""

import math
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from superserve.clock import NS_PER_MS, NS_PER_US, monotonic_ns
from superserve.engine import IN_FLIGHT, OverlappingEngine
from superserve.serving.ipc import (
    Channel,
    Done,
    Failed,
    FromWorker,
    Launch,
    ToWorker,
    WorkerSlots,
    WorkerSpec,
    error_text,
)

#: Something that no batch waits for is begun after so many times what it may take without a message: a batch then comes
#: during it in about one case out of five, if they come at random (`superserve.serving.idle_work.QUIET_SHARE`).
_QUIET: Final = 4


class OverlapModel(NamedTuple):
    """A model that this process holds."""

    spec: WorkerSpec
    slots: WorkerSlots
    engine: OverlappingEngine


class _Begun(NamedTuple):
    """A batch in flight."""

    model: OverlapModel
    launch: Launch
    received_ns: int


class Overlap:
    """Runs a worker's batches until the router is gone.

    Args:
        channel: where they come from.
        models: what they may be of, by the pool's numbers.
        send: tells the router.
    """

    def __init__(
        self, channel: Channel[ToWorker], models: Mapping[int, OverlapModel], send: Callable[[FromWorker], None]
    ) -> None:
        self._channel = channel
        self._models = models
        self._send = send
        self._flight: deque[_Begun] = deque()
        self._answered_ns = 0
        self._spare_ns = min(model.spec.spare_us for model in models.values()) * NS_PER_US

    def serve(self) -> None:
        """Take batches and answer them; those in flight, too, when no more will come.

        Raises:
            RuntimeError: if a device failed: the worker is to end, and the next one to begin with it anew.
        """
        while True:
            if self._flight and not (len(self._flight) < IN_FLIGHT and self._channel.waits()):
                if self._flight[0].model.engine.done():
                    self._answer()
                continue
            if not self._flight:
                self._use_quiet_time()
            message = self._channel.receive()
            if message is None:
                self._answer_all()
                return
            assert isinstance(message, Launch), message
            self._begin(message)

    def _begin(self, launch: Launch) -> None:
        begun = _Begun(self._models[launch.model], launch, monotonic_ns())
        try:
            begun.model.engine.submit(launch.subnet, begun.model.slots.batch(launch.rows, launch.seq))
        except Exception as error:  # noqa: BLE001  (a batch that raises must not take the worker with it)
            self._answer_all()
            self._fail(launch, error)
        else:
            self._flight.append(begun)

    def _answer_all(self) -> None:
        while self._flight:
            self._answer()

    def _answer(self) -> None:
        """Tell of the oldest batch in flight. Its time counts from when it had the device for itself."""
        (_, slots, engine), launch, received_ns = self._flight.popleft()
        began_ns = max(received_ns, self._answered_ns)
        outputs = engine.collect()
        try:
            slots.answer(launch.seq, launch.rows, outputs)
        except ValueError as error:  # they are not what config.json says
            self._fail(launch, error)
        else:
            self._answered_ns = monotonic_ns()
            waited_ns = began_ns - received_ns
            self._send(Done(launch.seq, self._answered_ns - began_ns, 0, engine.device_ns, waited_ns))

    def _fail(self, launch: Launch, error: Exception) -> None:
        traceback.print_exception(error)
        self._answered_ns = monotonic_ns()
        self._send(Failed(launch.seq, error_text(error)))

    def _use_quiet_time(self) -> None:
        """Prepare what makes later batches faster, unless a message comes."""
        quiet_ms = math.ceil(_QUIET * self._spare_ns / NS_PER_MS)
        for model in self._models.values():
            more = True
            while more:
                if self._channel.waits(quiet_ms):
                    return
                more = model.engine.spare(self._spare_ns)
