"""The guard in front of engines."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from superserve.errors import ModelFolderError
from superserve.model_folder import ModelFolder
from superserve.supernet.accuracy import TOLERANCE, check_front, check_subnet, relative_error

Array = npt.NDArray[Any]


class Linear:
    """Twice its input, and on one subnet a little more; remembers subnets and rows."""

    name = "linear"

    def __init__(self, error: float = 0.0, wrong: int = 0, count: int = 3, dtype: str = "float32") -> None:
        self.dtype = dtype
        self.subnet_ids = tuple(f"s{number}" for number in range(count))
        self.ran: list[tuple[int, int]] = []
        self._error, self._wrong = error, wrong
        self._reused = np.empty((64, 9, 9, 2), np.float32)

    def actuate(self, subnet: int) -> None:
        pass

    def run(self, subnet: int, inputs: Sequence[Array]) -> list[Array]:
        (x,) = inputs
        self.ran.append((subnet, len(x)))
        output = self._reused[: len(x)]  # as engines may
        output[...] = 2.0 * x * (1.0 + (self._error if subnet == self._wrong else 0.0))
        return [output]


@pytest.mark.parametrize(
    ("found", "expected", "error"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([1.0, 2.5], [1.0, 2.0], 0.25),
        ([-1.0, -4.0], [1.0, -4.0], 0.5),
        ([0.0], [0.0], 0.0),
        ([float("nan"), 1.0], [1.0, 1.0], float("inf")),
        ([float("inf"), 1.0], [1.0, 1.0], float("inf")),
        ([1.0], [1.0, 1.0], float("inf")),
    ],
)
def test_relative_error(found: list[float], expected: list[float], error: float) -> None:
    """The largest difference over the largest expected value."""
    assert relative_error([np.array(found, np.float32)], [np.array(expected, np.float32)]) == error


def test_the_worst_output_counts() -> None:
    good, bad, one = (np.array([value], np.float32) for value in (1.0, 1.5, 1.0))
    assert relative_error([good, bad, good], [one, one, one]) == 0.5


def rows(count: int = 8) -> list[Array]:
    return [np.random.default_rng(0).random((count, 9, 9, 2), np.float32)]


def test_an_accurate_engine_passes_with_its_error() -> None:
    engine = Linear(error=1e-6)
    assert check_subnet(engine, Linear(), 0, rows(), [1, 3, 8]) == pytest.approx(1e-6, rel=0.2)
    assert engine.ran == [(0, 1), (0, 3), (0, 8)]


@pytest.mark.parametrize("dtype", sorted(TOLERANCE))
def test_beyond_the_tolerance_of_its_dtype_it_is_refused(dtype: str) -> None:
    """With engine, subnet and what to do instead."""
    allowed = TOLERANCE[dtype]
    check_subnet(Linear(0.9 * allowed, dtype=dtype), Linear(), 0, rows(), [2])
    with pytest.raises(ModelFolderError, match=rf"linear \({dtype}\) differs .* 's0', more than .*engine eager"):
        check_subnet(Linear(1.1 * allowed, dtype=dtype), Linear(), 0, rows(), [2])
    with pytest.raises(ModelFolderError):
        check_subnet(Linear(float("nan"), dtype=dtype), Linear(), 0, rows(), [2])


@pytest.mark.parametrize(
    ("count", "most", "expected"), [(3, 16, [0, 1, 2]), (1, 2, [0]), (9, 2, [0, 8]), (9, 3, [0, 4, 8])]
)
def test_a_front_is_tried_at_both_ends_and_evenly_between(
    folder: ModelFolder, count: int, most: int, expected: list[int]
) -> None:
    engine = Linear(count=count)
    assert check_front(engine, Linear(count=count), folder, most=most) == 0.0
    assert [subnet for subnet, _ in engine.ran] == expected
    with pytest.raises(ModelFolderError, match=f"'s{count - 1}'"):
        check_front(Linear(0.1, count - 1, count), Linear(count=count), folder, most=most)
