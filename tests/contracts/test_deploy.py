"""What is in deploy/ asks for metrics and labels that the server really exports."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from superserve.clock import NS_PER_MS, ManualClock
from superserve.frontend.body_memory import BodyMemory
from superserve.frontend.metrics_page import ModelCollector
from superserve.serving.dataplane import DataPlane
from superserve.serving.fake_pool import FakePool
from support.serving import Recorder, make_model, make_router

DEPLOY = Path(__file__).parents[2] / "deploy"
BOARD = DEPLOY / "grafana/superserve.json"

#: Labels that Prometheus and Kubernetes add.
ADDED = {"namespace", "pod", "le"}


async def exported() -> dict[str, set[str]]:
    """Labels by name of every sample, of a server that has answered one request and refused another."""
    clock, pool = ManualClock(), FakePool()
    router = make_router(pool, clock)
    await router.start()
    for timeout_ms in (50, 0):
        router.submit(
            arrival_ns=0,
            deadline_ns=timeout_ms * NS_PER_MS,
            rows=1,
            min_accuracy=0,
            priority=0,
            inputs=[bytes(4), bytes(4)],
            responder=Recorder(),
        )
    pool.finish(0)
    collector = ModelCollector(DataPlane([make_model(router)], version="9"), BodyMemory(1), lambda: 1.0)
    return {sample.name: set(sample.labels) for family in collector.collect() for sample in family.samples}


def asked(text: str) -> list[tuple[str, set[str]]]:
    """Metrics and the labels that are compared, in expressions."""
    found = re.findall(r"(superserve_\w+)(?:\{([^}]*)\})?", text)
    return [(name, set(re.findall(r"(\w+)\s*(?:=~|!=|!~|=)", labels))) for name, labels in found]


def grouped(text: str) -> set[str]:
    """The labels that expressions group by."""
    return {label.strip() for group in re.findall(r"\bby \(([\w, ]+)\)", text) for label in group.split(",")}


async def check(text: str) -> None:
    told = await exported()
    metrics = asked(text)
    assert metrics, text
    for name, labels in metrics:
        assert name in told, f"{name} is not exported"
        assert labels - ADDED <= told[name], (name, labels)
    labels_of_all = set.union(*(told[name] for name, _ in metrics))
    assert grouped(text) - ADDED <= labels_of_all, text


def expressions() -> list[str]:
    board: dict[str, Any] = json.loads(BOARD.read_bytes())
    return [target["expr"] for panel in board["panels"] for target in panel["targets"]]


@pytest.mark.parametrize("expression", expressions())
async def test_the_grafana_board_asks_for_what_is_exported(expression: str) -> None:
    """Every expression of every panel."""
    await check(expression)


def test_the_panels_of_the_board_do_not_overlap() -> None:
    """They fill rows of 24 columns, each with a title and words."""
    places: set[tuple[int, int]] = set()
    for panel in json.loads(BOARD.read_bytes())["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & places, panel["title"]
        assert max(x for x, _ in cells) < 24
        assert panel["description"]
        places |= cells


def values(node: object, wanted: str) -> Iterator[str]:
    """All values under a key, anywhere below."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == wanted and isinstance(value, str):
                yield value
            yield from values(value, wanted)
    elif isinstance(node, list):
        for each in node:
            yield from values(each, wanted)


def manifest(name: str) -> object:
    return yaml.safe_load((DEPLOY / "kubernetes" / name).read_bytes())


def queries() -> list[str]:
    """Of KEDA and of the Prometheus adapter, whose templates stand for a series and labels of Kubernetes."""
    adapter = manifest("prometheus-adapter-values.yaml")
    series = list(values(adapter, "seriesQuery"))
    filled = [
        re.sub(r"<<.*?>>", "", query.replace("<<.Series>>", one.partition("{")[0]))
        for one, query in zip(series, values(adapter, "metricsQuery"), strict=True)
    ]
    return [*values(manifest("keda-scaledobject.yaml"), "query"), *series, *filled]


@pytest.mark.parametrize("query", queries())
async def test_scaling_asks_for_what_is_exported(query: str) -> None:
    """Every query of the examples."""
    await check(query.replace(" by ()", ""))


def test_the_autoscaler_asks_for_what_the_adapter_names() -> None:
    """One file names metrics, the other scales on them."""
    named = set(values(manifest("prometheus-adapter-values.yaml"), "as"))
    asked_for = {name for name in values(manifest("hpa.yaml"), "name") if name.startswith("superserve_")}
    assert asked_for == named


async def test_a_metric_that_is_not_exported_would_be_found() -> None:
    """So that the tests above can fail."""
    for text in ("rate(superserve_nothing_total[1m])", 'superserve_queue_depth{subnet="s0"}'):
        with pytest.raises(AssertionError):
            await check(text)
    with pytest.raises(AssertionError):
        await check("sum by (reason) (superserve_queue_depth)")
