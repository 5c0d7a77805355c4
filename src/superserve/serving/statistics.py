"""What a model has done, in the words of Triton's statistics extension.

(``docs/protocol/extension_statistics.md`` of triton-inference-server/server.) Durations are sums, so that whoever reads
them twice gets the mean of the time between.
"""

from typing import NamedTuple

import msgspec

from superserve.clock import epoch_ms


class StatisticDuration(msgspec.Struct):
    """How often something happened, and how long it took in all."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int, count: int = 1) -> None:
        """It happened ``count`` times, and took ``ns`` nanoseconds together."""
        self.count += count
        self.ns += ns


class InferStatistics(msgspec.Struct):
    """Of requests. Each request is charged with the whole time of the batch that it ran in, as with Triton."""

    success: StatisticDuration = msgspec.field(default_factory=StatisticDuration)
    fail: StatisticDuration = msgspec.field(default_factory=StatisticDuration)
    queue: StatisticDuration = msgspec.field(default_factory=StatisticDuration)
    compute_input: StatisticDuration = msgspec.field(default_factory=StatisticDuration)
    compute_infer: StatisticDuration = msgspec.field(default_factory=StatisticDuration)
    compute_output: StatisticDuration = msgspec.field(default_factory=StatisticDuration)
    cache_hit: StatisticDuration = msgspec.field(default_factory=StatisticDuration)
    cache_miss: StatisticDuration = msgspec.field(default_factory=StatisticDuration)


class BatchStatistics(msgspec.Struct):
    """Of batches with a number of rows."""

    batch_size: int
    compute_input: StatisticDuration = msgspec.field(default_factory=StatisticDuration)
    compute_infer: StatisticDuration = msgspec.field(default_factory=StatisticDuration)
    compute_output: StatisticDuration = msgspec.field(default_factory=StatisticDuration)


class ModelStatistics(msgspec.Struct, kw_only=True):
    """All of a model's; ``last_inference`` is a date in milliseconds, ``inference_count`` counts rows."""

    name: str
    version: str
    last_inference: int
    inference_count: int
    execution_count: int
    inference_stats: InferStatistics
    batch_stats: tuple[BatchStatistics, ...]


class StatisticsReport(msgspec.Struct, frozen=True):
    """The answer to a question about one model or all of them."""

    model_stats: tuple[ModelStatistics, ...]


class BatchTimes(NamedTuple):
    """Where the time of a batch went: to hand it over, in the worker, and everything else until it was back."""

    input_ns: int
    infer_ns: int
    output_ns: int


class Statistics:
    """Counts what a model does."""

    def __init__(self) -> None:
        self._requests = InferStatistics()
        self._batches: dict[int, BatchStatistics] = {}
        self._rows = 0
        self._executions = 0
        self._last_ms = 0

    def on_batch(self, rows: int, times: BatchTimes, answered: int, queue_ns: int, total_ns: int) -> None:
        """A worker ran a batch of ``rows`` rows, and ``answered`` requests have their answers.

        They waited ``queue_ns`` together, and took ``total_ns`` from their arrivals to now.
        """
        batch = self._batches.get(rows)
        if batch is None:
            batch = self._batches[rows] = BatchStatistics(rows)
        requests = self._requests
        requests.success.add(total_ns, answered)
        requests.queue.add(queue_ns, answered)
        for of_batch, of_requests, ns in (
            (batch.compute_input, requests.compute_input, times.input_ns),
            (batch.compute_infer, requests.compute_infer, times.infer_ns),
            (batch.compute_output, requests.compute_output, times.output_ns),
        ):
            of_batch.add(ns)
            of_requests.add(ns * answered, answered)
        self._rows += rows
        self._executions += 1
        self._last_ms = epoch_ms()

    def on_failure(self, ns: int) -> None:
        """A request ended without an answer, ``ns`` after its arrival."""
        self._requests.fail.add(ns)

    def told(self, name: str, version: str) -> ModelStatistics:
        """All of it as of now; it goes on counting in the objects told."""
        return ModelStatistics(
            name=name,
            version=version,
            last_inference=self._last_ms,
            inference_count=self._rows,
            execution_count=self._executions,
            inference_stats=self._requests,
            batch_stats=tuple(batch for _, batch in sorted(self._batches.items())),
        )
