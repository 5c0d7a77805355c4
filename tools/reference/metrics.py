"""The page of the metrics, from the collector that exports them."""

import asyncio

from prometheus_client.core import Metric

from reference.markdown import code, table
from superserve.frontend.body_memory import BodyMemory
from superserve.frontend.metrics_page import ModelCollector
from superserve.serving.dataplane import DataPlane

_HEAD = """\
# Metrics

What Prometheus reads from port 8002 (`--metrics-port`), under `/metrics`. Durations are in seconds. Histograms have
`_bucket`, `_sum` and `_count`; the bounds of their buckets follow from the SLO of the model. The ledger's are there for
models that keep one (`--ledger`), `superserve_record_lost_total` with `--record`.

SLO attainment, accuracy given up in points, mean batch size, and the p99 of the latency:

```promql
sum(rate(superserve_requests_total{outcome="served"}[5m])) / sum(rate(superserve_requests_total[5m]))
sum(rate(superserve_accuracy_given_up_points_total[5m])) / sum(rate(superserve_answered_requests_total[5m]))
sum(rate(superserve_batch_size_sum[5m])) / sum(rate(superserve_batch_size_count[5m]))
histogram_quantile(0.99, sum by (le) (rate(superserve_request_duration_seconds_bucket[5m])))
```

[A board for Grafana](../../deploy/grafana/superserve.json) asks for most of them; what to scale on is in
[Watch it live](../how-to/watch-it-live.md#6-scale-on-what-a-burst-leaves).

"""


def metrics() -> str:
    """Every family of metrics."""
    return _HEAD + table(("metric", "type", "labels", "meaning"), map(_row, asyncio.run(_families())))


async def _families() -> list[Metric]:
    """Of a server without models: all families, no samples. The collector counts the tasks of a running loop."""
    return list(ModelCollector(DataPlane([], version=""), BodyMemory(1), lambda: 1.0).collect())


def _row(family: Metric) -> list[str]:
    name = f"{family.name}_total" if family.type == "counter" else family.name
    labels: tuple[str, ...] = getattr(family, "_labelnames")  # noqa: B009  (told nowhere else without samples)
    return [code(name), family.type, ", ".join(map(code, labels)), family.documentation]
