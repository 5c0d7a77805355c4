"""The guard in front of every engine and dtype: its outputs against eager float32 on real inputs."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from superserve.engine import Engine
from superserve.errors import ModelFolderError
from superserve.evaluate import evaluate
from superserve.model_folder import ModelFolder

Rows = Sequence[np.ndarray[Any, Any]]
"""One array per input or output tensor, its rows first."""

#: Largest difference that an engine may show, over the largest absolute output of eager float32. Float32 leaves room
#: for another order of summation only; bfloat16 has 8 bits of mantissa, and a network's layers add their roundings up.
TOLERANCE: Final[Mapping[str, float]] = {"float32": 1e-4, "bfloat16": 5e-2}

#: Accuracy that an engine may lose against eager float32, in points of a test set (at least one example).
_MOST_POINTS: Final = 0.1

#: Subnets of a front that are tried when an engine is loaded, its ends among them: hundreds would take minutes.
_MOST_SUBNETS: Final = 16

#: Rows that they are tried with.
_ROWS: Final = 4

_SEED: Final = 0


def relative_error(found: Rows, expected: Rows) -> float:
    """The largest absolute difference over the largest absolute expected value, over all outputs; nan counts as inf."""
    worst = 0.0
    for got, want in zip(found, expected, strict=True):
        if got.shape != want.shape:
            return float("inf")
        scale = max(float(np.abs(want).max()), float(np.finfo(np.float32).tiny))
        error = float(np.abs(got.astype(np.float64) - want).max()) / scale
        worst = max(worst, error if np.isfinite(error) else float("inf"))
    return worst


def check_front(engine: Engine, reference: Engine, folder: ModelFolder, most: int = _MOST_SUBNETS) -> float:
    """`check_subnet` for a front, or for ``most`` of its subnets if it is larger, on one batch of a few rows.

    Args:
        engine: the one to check.
        reference: eager float32 of the same folder.
        folder: gives the rows: bundled test data, or random ones.
        most: at least 2; the ends of the front are among those chosen.

    Returns:
        The largest `relative_error`.

    Raises:
        ModelFolderError: as `check_subnet`.
    """
    inputs = folder.example_inputs(min(_ROWS, folder.config.max_batch_size), np.random.default_rng(_SEED))
    count = len(engine.subnet_ids)
    chosen = sorted({round(number) for number in np.linspace(0, count - 1, min(most, count))})
    return max(check_subnet(engine, reference, subnet, inputs, [len(inputs[0])]) for subnet in chosen)


def check_points(engine: Engine, reference: Engine, subnet: int, folder: ModelFolder) -> float:
    """Compare accuracies on the bundled test data of a folder, if it carries any.

    Args:
        engine: the one to check.
        reference: eager float32 of the same model.
        subnet: its index in both.
        folder: the model.

    Returns:
        The points of accuracy that are lost; below 0 if some are won.

    Raises:
        ModelFolderError: if more than `_MOST_POINTS` are lost, and more than a single example.
    """
    if not folder.carries_test_data or len(folder.config.inputs) != 1:
        return 0.0
    inputs, labels = folder.test_data()
    rows, chosen = folder.config.inputs[0].packed(inputs), [reference.subnet_ids[subnet]]
    (expected,), (found,) = (evaluate(each, rows, labels, subnets=chosen) for each in (reference, engine))
    lost = expected.accuracy - found.accuracy
    if round(lost * len(labels) / 100) > max(_MOST_POINTS * len(labels) / 100, 1):
        raise ModelFolderError(
            f"engine {engine.name} ({engine.dtype}) loses {lost:.2f} points of accuracy on subnet {chosen[0]!r} "
            f"({len(labels)} test examples), more than {_MOST_POINTS:g}: it is not used; serve with float32"
        )
    return lost


def check_subnet(
    engine: Engine,
    reference: Engine,
    subnet: int,
    inputs: Rows,
    batches: Sequence[int],
) -> float:
    """Run a subnet on both engines at several batch sizes.

    Args:
        engine: the one to check.
        reference: eager float32 of the same model.
        subnet: its index in both.
        inputs: rows as ``config.json`` declares them, at least as many as the largest batch.
        batches: batch sizes.

    Returns:
        The largest `relative_error`.

    Raises:
        ModelFolderError: beyond `TOLERANCE` of the engine's dtype.
    """
    worst = 0.0
    for rows in batches:
        batch = [array[:rows] for array in inputs]
        expected = [output.copy() for output in reference.run(subnet, batch)]
        worst = max(worst, relative_error(engine.run(subnet, batch), expected))
    allowed = TOLERANCE[engine.dtype]
    if not worst <= allowed:
        raise ModelFolderError(
            f"engine {engine.name} ({engine.dtype}) differs from eager float32 by {worst:.2g} of the largest output on "
            f"subnet {reference.subnet_ids[subnet]!r}, more than {allowed:g}: it is not used; serve with engine eager"
        )
    return worst
