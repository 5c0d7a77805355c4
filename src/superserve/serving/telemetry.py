"""How long the stages of a model's requests take, counted by size: what is shown of it is the front end's."""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

from superserve.clock import NS_PER_MS, NS_PER_US

#: Upper bounds for what depends on the model, in parts of its SLO.
_OF_SLO: Final = (0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 4.0)

#: Upper bounds for what the server adds, in microseconds.
_OF_SERVER_US: Final = (5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 50_000)


class Histogram:
    """Counts values by size, as Prometheus does: each belongs to the first bound that is not below it.

    Args:
        bounds: rising.

    Attributes:
        bounds: those; one more count is of what lies above all of them.
        counts: how many values belong to each.
        total: sum of all values.
    """

    def __init__(self, bounds: Sequence[int]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0

    def observe(self, value: int, times: int = 1) -> None:
        """A value came so many times."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    def observe_all(self, values: Sequence[int]) -> None:
        """Each of these values, of which there is one at least, came once."""
        bounds, counts = self.bounds, self.counts
        least = bisect_left(bounds, min(values))
        if least == bisect_left(bounds, max(values)):  # as is most often so for what one batch has to tell
            counts[least] += len(values)
        else:
            for value in values:
                counts[bisect_left(bounds, value)] += 1
        self.total += sum(values)


class Telemetry:
    """Histograms of one model. Durations are in nanoseconds.

    Args:
        slo_ns: the time that most requests have.
        batches: the profiled batch sizes.
        subnets: how many there are.

    Attributes:
        request: of answered requests, from their arrival to the last of their batch's answers.
        decode: from a request's arrival to its being offered to the scheduler.
        queue: from its arrival to the launch of its batch.
        wait: from the launch of a batch to its result, less the time in the worker.
        encode: the time of a batch's answers, per request.
        overhead: from the launch of a batch to the last of its answers, less the time in the worker, per batch.
        refusal: of refused and expired requests, from when it was certain that they cannot be in time to their answer.
        inference: time in the worker, by front index of the subnet.
        rows: of batches, by front index of the subnet.
        answered: how many requests each subnet has answered, by front index.
    """

    def __init__(self, slo_ns: int, batches: Sequence[int], subnets: int) -> None:
        of_slo = [round(part * slo_ns) for part in _OF_SLO]
        of_server = [bound * NS_PER_US for bound in _OF_SERVER_US]
        self.request, self.queue = Histogram(of_slo), Histogram(of_slo)
        self.decode, self.wait, self.encode, self.overhead, self.refusal = (Histogram(of_server) for _ in range(5))
        self.inference = [Histogram(of_slo) for _ in range(subnets)]
        self.rows = [Histogram(batches) for _ in range(subnets)]
        self.answered = [0] * subnets


#: Where nothing is known of a model's requests.
DEFAULT_SLO_NS: Final = 50 * NS_PER_MS
