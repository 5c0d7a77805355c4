"""Quantiles from few and from many samples."""

import numpy as np
import pytest

from superserve.profiler.estimate import Samples, _deviations, cell_quantiles

MEDIANS = np.geomspace(1_000, 50_000, 12)


def draw(counts: list[int], seed: int, sigma: float = 0.2) -> list[Samples]:
    """Log-normal cells around `MEDIANS`."""
    rng = np.random.default_rng(seed)
    return [median * rng.lognormal(0, sigma, n) for median, n in zip(MEDIANS, counts, strict=True)]


def test_with_many_samples_they_are_the_cells_own() -> None:
    cells = draw([600] * 12, seed=0)
    expected = [np.quantile(cell, [0.5, 0.95, 0.99]) for cell in cells]
    np.testing.assert_allclose(cell_quantiles(cells), expected)


def test_few_samples_borrow_the_tails_of_cells_like_them() -> None:
    """With eight samples a cell's own p95 lies too low, and further from the truth."""
    truth = MEDIANS * np.exp(1.645 * 0.2)
    pooled, own = [], []
    for seed in range(40):
        cells = draw([8] * 12, seed)
        pooled.append(cell_quantiles(cells)[:, 1] / truth)
        own.append(np.array([np.quantile(cell, 0.95) for cell in cells]) / truth)
    assert np.mean(pooled) == pytest.approx(1.0, abs=0.05)
    assert np.mean(own) < 0.95
    assert np.square(np.subtract(pooled, 1)).mean() < 0.7 * np.square(np.subtract(own, 1)).mean()


def test_the_nearest_cells_are_asked_first() -> None:
    """Small cells jitter and large ones do not: a large cell with few samples is not blamed for the small ones."""
    rng = np.random.default_rng(0)
    small = [1_000.0 * (1 + k / 100) * rng.lognormal(0, 0.5, 99) for k in range(3)]
    large = [50_000.0 * (1 + k / 100) * rng.lognormal(0, 0.01, 99) for k in range(3)]
    found = cell_quantiles([*small, *large])
    assert (found[:3, 1] > 1.8 * found[:3, 0]).all()
    assert (found[3:, 1] < 1.03 * found[3:, 0]).all()


@pytest.mark.parametrize("n", [2, 3, 4, 5, 9])
def test_a_deviation_is_from_the_median_of_the_others(n: int) -> None:
    ordered = np.sort(np.random.default_rng(n).random(n))
    expected = [value / np.median(np.delete(ordered, index)) for index, value in enumerate(ordered)]
    np.testing.assert_allclose(_deviations(np.random.default_rng(0).permutation(ordered)), expected)


def test_one_sample_is_all_there_is() -> None:
    assert cell_quantiles([np.array([5.0])]).tolist() == [[5, 5, 5]]


def test_quantiles_rise() -> None:
    found = cell_quantiles(draw([2] * 12, seed=3))
    assert (np.diff(found, axis=1) >= 0).all()
