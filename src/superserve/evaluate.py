"""Accuracy of each subnet on labelled examples, with its confidence interval."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
import numpy as np

from superserve.engine import Engine
from superserve.errors import ConfigError, UsageError
from superserve.intervals import wilson95

Array = np.ndarray[Any, Any]


class AccuracyRow(msgspec.Struct, frozen=True, kw_only=True):
    """Measured accuracy of one subnet."""

    subnet: str
    accuracy: float
    """Top-1 in per cent."""
    ci95: tuple[float, float]
    """95 % Wilson interval, in per cent."""
    n: int
    """Number of examples."""


def evaluate(
    engine: Engine,
    inputs: Array | Sequence[Array],
    labels: Array,
    *,
    subnets: Sequence[str] | None = None,
    batch_size: int = 16,
    report: Callable[[int, int], None] = lambda _done, _total: None,
) -> list[AccuracyRow]:
    """Measure top-1 accuracy through an engine, preprocessing included.

    Args:
        engine: runs the model; its first output gives class scores.
        inputs: the examples, (n, *row_shape) of the input tensor's dtype; one such array per input tensor, in the
            order of ``config.json``, where there are several.
        labels: (n,) integer classes.
        subnets: ids to measure; None means the whole front.
        batch_size: rows per batch.
        report: called with (batches done, batches in all).

    Raises:
        ConfigError: for an id that is not in the front.
        UsageError: if there are no examples, or not one label for each.
    """
    arrays = [inputs] if isinstance(inputs, np.ndarray) else list(inputs)
    total = len(arrays[0])
    if total == 0 or labels.shape != (total,):
        raise UsageError(f"evaluation needs one label per example: {total} inputs, labels {labels.shape}")
    chosen = engine.subnet_ids if subnets is None else tuple(subnets)
    unknown = [subnet for subnet in chosen if subnet not in engine.subnet_ids]
    if unknown:
        raise ConfigError(f"subnet {unknown[0]!r} is not one of {', '.join(engine.subnet_ids)}")
    per_subnet = -(-total // batch_size)
    rows = []
    for number, subnet in enumerate(chosen):
        correct = 0
        hits = _hits(engine, engine.subnet_ids.index(subnet), arrays, labels, batch_size)
        for batch, count in enumerate(hits, start=1):
            correct += count
            report(number * per_subnet + batch, len(chosen) * per_subnet)
        rows.append(accuracy_row(subnet, correct, total))
    return rows


def accuracy_row(subnet: str, correct: int, n: int) -> AccuracyRow:
    """The row of a subnet that got ``correct`` of ``n`` examples right."""
    return AccuracyRow(subnet=subnet, accuracy=100 * correct / n, ci95=wilson95(correct, n), n=n)


def _hits(engine: Engine, subnet: int, arrays: Sequence[Array], labels: Array, batch_size: int) -> Iterator[int]:
    for start in range(0, len(labels), batch_size):
        scores = engine.run(subnet, [array[start : start + batch_size] for array in arrays])[0]
        yield int((scores.argmax(axis=-1) == labels[start : start + batch_size]).sum())
