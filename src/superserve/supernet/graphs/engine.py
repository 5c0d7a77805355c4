"""The engine of CUDA graphs: what a batch costs the processor is a copy and one launch, whatever the subnet."""

import bisect
import logging
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from superserve.clock import NS_PER_MS, monotonic_ns
from superserve.engine import IN_FLIGHT
from superserve.errors import ModelFolderError
from superserve.model_folder import ModelFolder
from superserve.supernet.accuracy import check_front
from superserve.supernet.actuator import Actuator
from superserve.supernet.engine import EagerEngine, as_tensor, prepare_cuda, run_network
from superserve.supernet.graphs.cuda import CudaDevice
from superserve.supernet.graphs.device import Graph, GraphDevice, Span, Work
from superserve.supernet.graphs.holdings import Cell, GraphHoldings, GraphLimits
from superserve.supernet.hub import load_supernet
from superserve.supernet.network import Supernet
from superserve.supernet.preprocess import host_and_device, parse_preprocessing
from superserve.supernet.reduced import TORCH_DTYPES, load_supernet_in

_logger = logging.getLogger(__name__)

_Shapes = tuple[tuple[int, ...], ...]


class _Lane:
    """What one batch in flight has to itself: where its inputs arrive on the device, and its outputs on the host."""

    def __init__(self, outputs: Tensor) -> None:
        self.outputs: Final = outputs
        self.arrivals: dict[_Shapes, list[Tensor]] = {}
        self.rows = 0
        self.sources: Sequence[Tensor] = ()
        """The host's tensors, kept until they have been copied."""
        self.span: Span


class GraphEngine:
    """Replays a graph for each (subnet, padded batch) that has one and runs the others eagerly.

    See `superserve.engine.OverlappingEngine`. There is one copy of the weights on the device: a graph holds the
    addresses of a subnet's views of it, so that to actuate a subnet is to replay another graph, and only what runs
    eagerly or is captured sets slots.

    A batch goes through four places: the inputs of its lane, to which they are copied while the batch before it may be
    computed; the network's inputs and its outputs, which all cells share (a smaller batch is the leading rows), since
    graphs run one at a time; and the outputs of its lane on the host, copied there before the next batch is computed.

    Args:
        supernet: in the memory of the device, with its weights in the dtype.
        device: what computes.
        dtype: what to compute in; inputs and outputs stay as ``config.json`` has them.
        batches: the padded batch sizes, rising; the last one is the largest that comes.
        limits: how much may be captured.

    Attributes:
        device_ns: what the batch that was collected last took by the device's own clock, copies from the host left out.
    """

    name: Final = "graphs"

    def __init__(
        self,
        supernet: Supernet,
        device: GraphDevice,
        *,
        dtype: str = "float32",
        batches: Sequence[int],
        limits: GraphLimits | None = None,
    ) -> None:
        self.dtype: Final = dtype
        self.subnet_ids: Final = tuple(record.id for record in supernet.front.subnets)
        self.device_ns = 0
        self.holdings: Final = GraphHoldings(limits or GraphLimits())
        self._device = device
        self._network = supernet.network.eval()
        self._actuator = Actuator.of_front(supernet)
        self._batches = tuple(batches)
        self._datatypes = [tensor.datatype for tensor in supernet.config.inputs]
        preprocessing = parse_preprocessing(supernet.config.preprocessing)
        self._prepare, self._preprocess = host_and_device(preprocessing, device.name)
        (output,) = supernet.config.outputs
        shape = (self._batches[-1], *output.row_shape)
        found = torch.from_numpy(np.empty(0, output.dtype)).dtype
        self._free = deque(_Lane(device.host_zeros(shape, found)) for _ in range(IN_FLIGHT))
        self._flight: deque[_Lane] = deque()
        self._graphs: dict[Cell, Graph] = {}
        self._arguments: dict[_Shapes, list[Tensor]] = {}
        # Made last: when it is there, so is what else was begun on the device, such as computed kernels.
        self._outputs = device.zeros(shape, found)

    @classmethod
    def load(cls, folder: ModelFolder, batches: Sequence[int], dtype: str = "float32") -> "GraphEngine":
        """Load a model folder onto the GPU, and check what it computes eagerly and what its first graphs compute.

        Raises:
            ConfigError: without a GPU that torch can use.
            ModelFolderError: if a file is missing, wrong or stale, the tensors of ``config.json`` do not fit the
                architecture, or outputs differ from eager float32's on the CPU by more than `accuracy.TOLERANCE`.
        """
        prepare_cuda()
        if len(folder.config.outputs) != 1:
            raise ModelFolderError(
                f"{folder.path}: has {len(folder.config.outputs)} outputs: serve with --engine eager"
            )
        reference = EagerEngine(load_supernet(folder))
        reference.try_zeros(folder)
        device = CudaDevice()
        engine = cls(load_supernet_in(folder, dtype).to(device.name), device, dtype=dtype, batches=batches)
        check_front(engine, reference, folder)
        while engine.spare(None):
            pass
        check_front(engine, reference, folder)
        return engine

    def actuate(self, subnet: int) -> None:
        """See `Engine.actuate`; nothing is to be set: graphs know their subnets, and what runs eagerly sets itself."""

    def run(self, subnet: int, inputs: Sequence[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        """See `Engine.run`."""
        self.submit(subnet, inputs)
        return self.collect()

    @torch.inference_mode()
    def submit(self, subnet: int, inputs: Sequence[np.ndarray[Any, Any]]) -> None:
        """See `OverlappingEngine.submit`."""
        sources = self._prepare([as_tensor(*item) for item in zip(inputs, self._datatypes, strict=True)])
        rows, shapes = len(sources[0]), tuple(tuple(source.shape[1:]) for source in sources)
        lane = self._free[0]
        arrivals = self._at(lane.arrivals, shapes, sources, rows)
        arguments = self._at(self._arguments, shapes, sources, rows)
        cell = Cell(subnet, self._padded(rows), shapes)
        compute: Work = (
            self._graphs[cell].replay if self.holdings.use(cell) else self._forward(cell._replace(rows=rows))
        )

        def work() -> None:
            for argument, arrived in zip(arguments, arrivals, strict=True):
                argument.copy_(arrived)
            compute()
            lane.outputs[:rows].copy_(self._outputs[:rows], non_blocking=True)

        lane.rows, lane.sources = rows, sources
        lane.span = self._device.submit(arrivals, sources, work)
        self._flight.append(self._free.popleft())

    def done(self) -> bool:
        """See `OverlappingEngine.done`."""
        return self._flight[0].span.done()

    def collect(self) -> list[np.ndarray[Any, Any]]:
        """See `OverlappingEngine.collect`."""
        lane = self._flight.popleft()
        self._free.append(lane)
        lane.span.wait()
        lane.sources = ()
        self.device_ns = lane.span.taken_ns()
        return [lane.outputs[: lane.rows].numpy()]

    @torch.inference_mode()
    def spare(self, limit_ns: int | None) -> bool:
        """See `OverlappingEngine.spare`: capture the graph that is wanted most."""
        assert not self._flight, "batches are in flight, and their requests would wait"
        cell = self.holdings.next(limit_ns)
        if cell is None:
            return False
        began_ns = monotonic_ns()
        try:
            self._graphs[cell] = graph = self._device.capture(self._forward(cell))
        except RuntimeError as error:
            self.holdings.failed(cell)
            _logger.warning("%s stays eager, because it cannot be captured: %s", self._words(cell), error)
            return True
        taken_ns = monotonic_ns() - began_ns
        gone = self.holdings.captured(cell, graph.grown_bytes, taken_ns)
        if cell in gone:
            _logger.warning("%s stays eager, because its graph needs too much memory", self._words(cell))
        self._release(gone)
        _logger.debug("%s was captured in %.1f ms", self._words(cell), taken_ns / NS_PER_MS)
        return True

    def pin(self, memory: "np.ndarray[Any, np.dtype[np.uint8]]") -> None:
        """See `OverlappingEngine.pin`."""
        self._device.pin(memory)

    def _forward(self, cell: Cell) -> Work:
        """A forward of a subnet on the leading rows of the network's inputs: eagerly, or to be captured."""
        return partial(self._run_network, cell, self._arguments[cell.shapes])

    def _run_network(self, cell: Cell, arguments: Sequence[Tensor]) -> None:
        self._actuator.actuate(cell.subnet)
        rows = [argument[: cell.rows] for argument in arguments]
        self._outputs[: cell.rows].copy_(run_network(self._network, self._preprocess, rows, TORCH_DTYPES[self.dtype]))

    def _at(
        self, known: dict[_Shapes, list[Tensor]], shapes: _Shapes, like: Sequence[Tensor], rows: int
    ) -> list[Tensor]:
        """The leading rows of the tensors that are kept for these shapes; made when they are first needed."""
        if shapes not in known:
            most = self._batches[-1]
            known[shapes] = [self._device.zeros((most, *tensor.shape[1:]), tensor.dtype) for tensor in like]
        return [tensor[:rows] for tensor in known[shapes]]

    def _padded(self, rows: int) -> int:
        return self._batches[bisect.bisect_left(self._batches, rows)]

    def _release(self, cells: Sequence[Cell]) -> None:
        for cell in cells:
            self._graphs.pop(cell).release()
        if cells and not self._graphs:
            self._device.renew_pool()

    def _words(self, cell: Cell) -> str:
        return f"subnet {self.subnet_ids[cell.subnet]!r} at {cell.rows} rows of {cell.shapes}"
