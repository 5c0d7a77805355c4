"""Subnets beside those of a front: timed and tried on examples, one against the other."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from superserve.clock import NS_PER_S, NS_PER_US, monotonic_ns, process_cpu_ns
from superserve.model_folder import BYTES, FORMAT, Front, ModelConfig, SubnetRecord
from superserve.subnet import SubnetSpec
from superserve.supernet.calibrate import calibrate
from superserve.supernet.engine import EagerEngine, as_tensor, channels_last
from superserve.supernet.network import ElasticNetwork, Supernet
from superserve.supernet.operators import Statistics
from superserve.supernet.preprocess import parse_preprocessing
from superserve.supernet.reduced import TORCH_DTYPES
from superserve.supernet.single_thread import single_thread

Arrays = Sequence[np.ndarray[Any, Any]]
Report = Callable[[float, float, str], None]

#: Rounds of timing, whatever the time; the first one warms up and does not count.
LEAST_ROUNDS: Final = 4
_MOST_ROUNDS: Final = 16
#: Examples that all subnets are tried on before the time is looked at.
_CHUNK: Final = 10


class Examples(NamedTuple):
    """Labelled rows: one array (n, ...) per input tensor, and (n,) integer labels; none without test data."""

    inputs: Arrays
    labels: np.ndarray[Any, Any]


class Probes:
    """Subnets of one network, calibrated alike and bound side by side.

    Args:
        network: with its weights in the dtype.
        config: of its folder.
        specs: the subnets, by any name.
        rows: rows to run, one array per input; statistics come from them, in one batch.
        dtype: what to compute in.
        report: called after each subnet.
    """

    def __init__(
        self,
        network: ElasticNetwork,
        config: ModelConfig,
        specs: Mapping[str, SubnetSpec],
        rows: Arrays,
        *,
        dtype: str = "float32",
        report: Report = lambda _done, _total, _what: None,
    ) -> None:
        self.names = tuple(specs)
        self._rows = rows
        self._texts = any(tensor.datatype == BYTES for tensor in config.inputs)
        self._longest = [tensor.longest(1) for tensor in config.inputs] if self._texts else []
        records = tuple(SubnetRecord(id=name, spec=spec, accuracy=0.0, accuracy_n=0) for name, spec in specs.items())
        front = Front(format=FORMAT, measured_on="", subnets=records)
        statistics: dict[str, Statistics] = {}
        for name, spec in specs.items():
            statistics[name] = _statistics(network, config, spec, rows, dtype)
            report(len(statistics), len(specs), "levers: calibrate")
        self.engine = EagerEngine(Supernet(config, front, network, statistics), dtype)

    def batch(self, rows: int) -> list[np.ndarray[Any, Any]]:
        """A batch of so many rows, of texts the longest."""
        if self._texts:
            return [np.repeat(array, rows, axis=0) for array in self._longest]
        return [array[np.arange(rows) % len(array)] for array in self._rows]

    def time_us(
        self, runs: Sequence[tuple[str, int]], *, seconds: float, rng: np.random.Generator, report: Report
    ) -> dict[tuple[str, int], npt.NDArray[np.float64]]:
        """Time some (name, rows) in turns, in random order within each round.

        By processor time on one thread, so that waiting for a core does not count.

        Returns:
            Microseconds of each round, aligned: what slows a round slows all of them.
        """
        batches = {rows: self.batch(rows) for _, rows in runs}
        taken: dict[tuple[str, int], list[float]] = {run: [] for run in runs}
        end_ns = monotonic_ns() + round(seconds * NS_PER_S)
        with single_thread():
            for number in range(_MOST_ROUNDS):
                if number >= LEAST_ROUNDS and monotonic_ns() > end_ns:
                    break
                for index in rng.permutation(len(runs)).tolist():
                    name, rows = runs[index]
                    start_ns = process_cpu_ns()
                    self.engine.run(self.names.index(name), batches[rows])
                    taken[name, rows].append((process_cpu_ns() - start_ns) / NS_PER_US)
                report(number + 1, _MOST_ROUNDS, "levers: time")
        return {run: np.array(times[1:]) for run, times in taken.items()}

    def hits(self, examples: Examples, *, seconds: float, report: Report) -> dict[str, npt.NDArray[np.float64]]:
        """Which examples each subnet gets right (1 or 0), of as many as there is time for: the same for all."""
        found: dict[str, list[npt.NDArray[np.float64]]] = {name: [] for name in self.names}
        end_ns = monotonic_ns() + round(seconds * NS_PER_S)
        count = len(examples.labels)
        with single_thread():
            for start in range(0, count, _CHUNK):
                if start and monotonic_ns() > end_ns:
                    break
                chunk = [array[start : start + _CHUNK] for array in examples.inputs]
                for index, name in enumerate(self.names):
                    scores = self.engine.run(index, chunk)[0]
                    right = scores.argmax(axis=-1) == examples.labels[start : start + _CHUNK]
                    found[name].append(right.astype(np.float64))
                report(min(count, start + _CHUNK), count, "levers: accuracy")
        return {name: np.concatenate(parts) for name, parts in found.items()}


@torch.inference_mode()
def _statistics(network: ElasticNetwork, config: ModelConfig, spec: SubnetSpec, rows: Arrays, dtype: str) -> Statistics:
    prepare, kind = parse_preprocessing(config.preprocessing).build(), TORCH_DTYPES[dtype]
    tensors = [as_tensor(array, tensor.datatype) for array, tensor in zip(rows, config.inputs, strict=True)]
    arguments = (channels_last(x.to(kind) if x.dtype == torch.float32 else x) for x in prepare(tensors))
    with single_thread():
        return calibrate(network, spec, [tuple(arguments)])
