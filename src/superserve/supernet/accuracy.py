"""The guard in front of every engine and dtype: its outputs against eager float32 on real inputs.

``points.py`` is the other one: outputs may be close, and answers differ.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from superserve.engine import Engine
from superserve.errors import ModelFolderError
from superserve.model_folder import ModelFolder

Rows = Sequence[np.ndarray[Any, Any]]
"""One array per input or output tensor, its rows first."""

#: Largest difference that an engine may show, over the largest absolute output of eager float32. Float32 leaves room
#: for another order of summation only; bfloat16 has 8 bits of mantissa, and a network's layers add their roundings up.
#: int8 has 8 bits for the whole range of a tensor: outputs differ by per cents where answers are the same. Its limit
#: only finds what went wrong; whether it is accurate enough is for `check_points` to say, which it never goes without.
TOLERANCE: Final[Mapping[str, float]] = {"float32": 1e-4, "bfloat16": 5e-2, "int8": 0.25}

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
