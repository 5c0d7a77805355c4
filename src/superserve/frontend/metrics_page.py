"""What Prometheus reads: counters, gauges and histograms of every model, as text.

Counting is done where things happen, in plain integers (``serving/telemetry.py``); here they get their names, when
somebody asks.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from typing import Final, get_args

from prometheus_client.core import (
    CollectorRegistry,
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from superserve.clock import NS_PER_S
from superserve.frontend.body_memory import BodyMemory
from superserve.frontend.exchange import Exchange
from superserve.frontend.routes import PathArguments, RouteTable
from superserve.request import Outcome
from superserve.serving.dataplane import DataPlane, ServedModel
from superserve.serving.residency.report import SubnetState
from superserve.serving.telemetry import Histogram

#: The text format that every Prometheus reads.
_CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"

#: Attribute of `superserve.serving.telemetry.Telemetry`, and what it means.
_STAGES: Final = {
    "request": "From the arrival of an answered request to the answers of its batch.",
    "decode": "From a request's arrival until it was read and checked.",
    "queue": "From a request's arrival to the launch of its batch.",
    "wait": "From the launch of a request's batch to its result, less the time in the worker.",
    "encode": "Time of a batch's answers, per request.",
    "refusal": "From when it was certain that a request cannot be answered in time to its refusal.",
    "overhead": "From the launch of a batch to the last of its answers, less the time in the worker.",
}


class ModelCollector(Collector):
    """Collects what there is to know of all models.

    Args:
        plane: the models.
        memory: of the bodies of requests.
        headroom: says how much more could come; default: nobody knows.
    """

    def __init__(self, plane: DataPlane, memory: BodyMemory, headroom: Callable[[], float] | None = None) -> None:
        self._plane = plane
        self._memory = memory
        self._headroom = headroom

    def collect(self) -> Iterator[Metric]:
        """See `Collector.collect`."""
        models = list(self._plane.models.values())
        yield from _outcomes(models)
        yield _unanswered(models)
        yield from _stages(models)
        yield from _batches(models)
        depth = GaugeMetricFamily("superserve_queue_depth", "Requests waiting.", labels=["model"])
        for model in models:
            depth.add_metric([model.config.name], model.router.queue_depth)
        yield depth
        yield from _accuracy(models)
        if self._headroom is not None:
            yield GaugeMetricFamily(
                "superserve_burst_headroom_ratio",
                "Part of what the workers can take at the fastest subnets that does not come; below 0: more comes.",
                value=self._headroom(),
            )
        yield from _plans(models)
        yield _recording(models)
        yield from _ledgers(models)
        yield _profile_drift(models)
        yield from _packed(models)
        yield _workers(models)
        yield _workers_by_device(models)
        yield GaugeMetricFamily("superserve_tasks", "Tasks of the event loop.", value=len(asyncio.all_tasks()))
        yield GaugeMetricFamily(
            "superserve_body_memory_bytes", "Bytes of request bodies in memory.", value=self._memory.held
        )


def _outcomes(models: Iterable[ServedModel]) -> Iterator[Metric]:
    labels = ["model", "outcome"]
    ended = CounterMetricFamily("superserve_requests", "Requests by how they ended.", labels=labels)
    rescued = CounterMetricFamily(
        "superserve_rescued_requests",
        "Requests whose worker was lost with slack left, by how they ended.",
        labels=labels,
    )
    late = CounterMetricFamily(
        "superserve_launched_too_late", "Requests launched after their deadline or their end.", labels=["model"]
    )
    for model in models:
        name, router = model.config.name, model.router
        for outcome in Outcome:
            ended.add_metric([name, outcome.value], router.outcomes[outcome])
            rescued.add_metric([name, outcome.value], router.rescued[outcome])
        late.add_metric([name], router.launched_too_late)
    yield from (ended, rescued, late)


def _unanswered(models: Iterable[ServedModel]) -> Metric:
    family = CounterMetricFamily(
        "superserve_unanswered", "Requests that got no answer, by why.", labels=["model", "outcome", "reason"]
    )
    for model in models:
        for (outcome, reason), count in model.router.unanswered.items():
            family.add_metric([model.config.name, outcome.value, reason.label], count)
    return family


def _stages(models: Iterable[ServedModel]) -> Iterator[Metric]:
    for stage, meaning in _STAGES.items():
        family = HistogramMetricFamily(f"superserve_{stage}_duration_seconds", meaning, labels=["model"])
        for model in models:
            _add(family, [model.config.name], getattr(model.router.telemetry, stage), NS_PER_S)
        yield family


def _batches(models: Iterable[ServedModel]) -> Iterator[Metric]:
    labels = ["model", "subnet"]
    inference = HistogramMetricFamily(
        "superserve_inference_duration_seconds", "Time of a batch in the worker.", labels=labels
    )
    rows = HistogramMetricFamily("superserve_batch_size", "Rows of a batch.", labels=labels)
    launched = CounterMetricFamily("superserve_dispatches", "Batches that were answered.", labels=labels)
    for model in models:
        telemetry = model.router.telemetry
        for subnet, of_inference, of_rows in zip(
            model.router.table.ids, telemetry.inference, telemetry.rows, strict=True
        ):
            names = [model.config.name, subnet]
            _add(inference, names, of_inference, NS_PER_S)
            _add(rows, names, of_rows, 1)
            launched.add_metric(names, sum(of_rows.counts))
    yield from (inference, rows, launched)


def _accuracy(models: Iterable[ServedModel]) -> Iterator[Metric]:
    """Sums over answered requests: of two rates the ratio is a mean."""
    answered = CounterMetricFamily(
        "superserve_answered_requests", "Requests that were answered, in time or late.", labels=["model", "subnet"]
    )
    given_up = CounterMetricFamily(
        "superserve_accuracy_given_up_points",
        "By how many points of accuracy requests were answered below the most accurate subnet, summed up.",
        labels=["model"],
    )
    for model in models:
        name, table, counts = model.config.name, model.router.table, model.router.telemetry.answered
        best = max(table.accuracies)
        for subnet, count in zip(table.ids, counts, strict=True):
            answered.add_metric([name, subnet], count)
        points = sum(count * (best - own) for count, own in zip(counts, table.accuracies, strict=True))
        given_up.add_metric([name], points)
    yield from (answered, given_up)


def _plans(models: Iterable[ServedModel]) -> Iterator[Metric]:
    overhead = GaugeMetricFamily(
        "superserve_planned_overhead_seconds",
        "What plans take off every slack for a batch's dispatch.",
        labels=["model"],
    )
    drift = GaugeMetricFamily(
        "superserve_drift_ratio", "What batches are planned to take over what the profile says.", labels=["model"]
    )
    for model in models:
        overhead.add_metric([model.config.name], model.router.scheduler.planned_overhead_ns / NS_PER_S)
        drift.add_metric([model.config.name], model.router.scheduler.drift)
    yield from (overhead, drift)


def _recording(models: Iterable[ServedModel]) -> Metric:
    family = CounterMetricFamily(
        "superserve_record_lost", "Requests that could not be recorded (--record).", labels=["model"]
    )
    for model in models:
        if model.router.recorder is not None:
            family.add_metric([model.config.name], model.router.recorder.lost)
    return family


def _ledgers(models: Iterable[ServedModel]) -> Iterator[Metric]:
    """Nothing of models that keep none."""
    labels = ["model", "subnet"]
    counters = {
        "answered": "Degraded requests, by the subnet that answered.",
        "compared": "Those of them that were run again on the largest subnet.",
        "agreed": "Those for which both answered the same.",
    }
    families = {
        what: CounterMetricFamily(f"superserve_ledger_{what}", counters[what], labels=labels) for what in counters
    }
    dropped = CounterMetricFamily("superserve_ledger_dropped", "Samples that were given up.", labels=["model"])
    bounds = GaugeMetricFamily(
        "superserve_ledger_agreement_ratio",
        "Ends of the 95 % confidence interval of the share that agrees.",
        labels=[*labels, "bound"],
    )
    for report in (model.router.ledger.report() for model in models if model.router.ledger is not None):
        dropped.add_metric([report.model], report.dropped)
        for row in report.rows:
            for what, family in families.items():
                family.add_metric([report.model, row.subnet], getattr(row, what))
            for bound, value in zip(("low", "high"), row.ci95 or (), strict=False):
                bounds.add_metric([report.model, row.subnet, bound], value / 100)
    yield from (*families.values(), dropped, bounds)


def _profile_drift(models: Iterable[ServedModel]) -> Metric:
    """Of cells that have been measured again."""
    family = GaugeMetricFamily(
        "superserve_profile_drift_ratio",
        "What a batch takes on a machine at rest over what it took when it was profiled.",
        labels=["model", "subnet", "batch"],
    )
    for model in models:
        for cell in model.live_profile.report().cells if model.can_reprofile else ():
            family.add_metric([model.config.name, cell.subnet, str(cell.batch)], cell.ratio)
    return family


def _packed(models: Iterable[ServedModel]) -> Iterator[Metric]:
    """Nothing of models on engines that run from the one copy of the weights."""
    told = [(model.config.name, report) for model in models if (report := model.router.residency) is not None]
    weights = GaugeMetricFamily(
        "superserve_weights_bytes",
        "Bytes of the one copy of a model's weights, where some of its subnets may be packed beside it.",
        labels=["model"],
    )
    states = GaugeMetricFamily(
        "superserve_subnet_residency",
        "1 for the state that a subnet is in: resident, packing, packed, refused, or not packed.",
        labels=["model", "subnet", "state"],
    )
    held = GaugeMetricFamily(
        "superserve_packed_bytes",
        "Bytes that packed subnets take on this machine beside the one copy of the weights.",
        labels=["model"],
    )
    budget = GaugeMetricFamily("superserve_packed_budget_bytes", "What those of all models may take together.")
    resident = GaugeMetricFamily("superserve_packed_subnets", "Subnets that are packed and mapped.", labels=["model"])
    counters = {
        "packed": CounterMetricFamily(
            "superserve_packs", "Subnets that were packed, or found packed.", labels=["model"]
        ),
        "failures": CounterMetricFamily(
            "superserve_pack_failures", "Times that a subnet could not be packed or mapped.", labels=["model"]
        ),
        "evictions": CounterMetricFamily(
            "superserve_packed_evictions", "Times that a packed subnet has given way.", labels=["model"]
        ),
        "answered": CounterMetricFamily(
            "superserve_packed_requests", "Requests that were answered by a packed subnet.", labels=["model"]
        ),
    }
    for name, report in told:
        weights.add_metric([name], report.weights)
        for one in report.front:
            for state in get_args(SubnetState):
                states.add_metric([name, one.id, state], state == one.state)
        held.add_metric([name], report.nbytes)
        resident.add_metric([name], len(report.subnets))
        for what, family in counters.items():
            family.add_metric([name], getattr(report, what))
    for _, report in told[:1]:
        budget.add_metric([], report.budget)
    yield from (weights, held, budget, resident, states, *counters.values())


def _workers(models: Iterable[ServedModel]) -> Metric:
    """All models share them."""
    schedulers = [model.router.scheduler for model in models]
    busy = sum(scheduler.busy for scheduler in schedulers)
    live = max((scheduler.workers for scheduler in schedulers), default=0)
    family = GaugeMetricFamily("superserve_workers", "Workers that are ready, by what they do.", labels=["state"])
    family.add_metric(["busy"], busy)
    family.add_metric(["idle"], live - busy)
    return family


def _workers_by_device(models: Iterable[ServedModel]) -> Metric:
    """Only where they are of several."""
    family = GaugeMetricFamily("superserve_device_workers", "Workers that are ready, by device.", labels=["device"])
    model = next((model for model in models if model.devices), None)
    if model is not None:
        for device, live in zip(model.devices, model.router.scheduler.workers_by_device, strict=True):
            family.add_metric([device], live)
    return family


def _add(family: HistogramMetricFamily, labels: list[str], histogram: Histogram, unit: int) -> None:
    bounds = [str(bound / unit) for bound in histogram.bounds] + ["+Inf"]
    buckets = list(zip(bounds, accumulate(histogram.counts), strict=True))
    family.add_metric(labels, buckets, histogram.total / unit)


class MetricsRoutes(RouteTable):
    """``/metrics``, and nothing else.

    Args:
        plane: the models.
        memory: of the bodies of requests.
        headroom: see `ModelCollector`.
    """

    def __init__(self, plane: DataPlane, memory: BodyMemory, headroom: Callable[[], float] | None = None) -> None:
        super().__init__()
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(ModelCollector(plane, memory, headroom))
        self.add(b"GET", "/metrics", self._metrics)

    def _metrics(self, exchange: Exchange, _: PathArguments) -> None:
        exchange.respond_text(_CONTENT_TYPE, generate_latest(self._registry))
