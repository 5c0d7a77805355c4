"""Means over seeds, and shares, with 95 % confidence intervals."""

from collections.abc import Sequence
from math import sqrt
from statistics import fmean, stdev
from typing import Final

import msgspec

#: 97.5 % quantiles of Student's t for 1, 2, ... degrees of freedom; the normal distribution's beyond.
_T_975: Final = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
_NORMAL_975: Final = 1.959963984540054


class Estimate(msgspec.Struct, frozen=True):
    """A mean and the half-width of its 95 % confidence interval; None where one value gives no interval."""

    mean: float
    half_width: float | None = None

    @property
    def low(self) -> float:
        """Lower end of the interval; the mean itself without one."""
        return self.mean - (self.half_width or 0.0)

    @property
    def high(self) -> float:
        """Upper end of the interval; the mean itself without one."""
        return self.mean + (self.half_width or 0.0)

    def text(self, digits: int) -> str:
        """For tables, with that many digits after the point."""
        mean = f"{self.mean:.{digits}f}"
        return mean if self.half_width is None else f"{mean} ± {self.half_width:.{digits}f}"


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and Student's t interval of independent values of one normal distribution.

    Raises:
        ValueError: for no values.
    """
    if not values:
        raise ValueError("no values: there is no mean")
    if len(values) == 1:
        return Estimate(values[0])
    freedom = len(values) - 1
    quantile = _T_975[freedom - 1] if freedom <= len(_T_975) else _NORMAL_975
    return Estimate(fmean(values), quantile * stdev(values) / sqrt(len(values)))


def paired(ours: Sequence[float], others: Sequence[float]) -> Estimate:
    """Mean difference of values in pairs (the same seed): what both owe to the seed cancels out."""
    return estimate([one - other for one, other in zip(ours, others, strict=True)])


def wilson95(correct: int, n: int) -> tuple[float, float]:
    """95 % confidence interval of a share, in per cent.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 1927. Unlike
    the normal approximation it stays inside 0..100 and is sound near the ends.
    """
    share, z2 = correct / n, _NORMAL_975**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _NORMAL_975 * sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return 100 * max(0.0, centre - half), 100 * min(1.0, centre + half)
