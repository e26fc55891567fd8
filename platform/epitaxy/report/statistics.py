"""Statistics of repeated runs: paired differences with their interval, and relative change."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from epitaxy.errors import ConfigError

CONFIDENCE = 0.95


@dataclass(frozen=True)
class PairedDifference:
    """Mean of paired differences with its two-sided t-interval.

    Attributes:
        mean: Mean of ``a − b``.
        low: Lower end of the interval; NaN for a single pair.
        high: Upper end; NaN for a single pair.
        n: Number of pairs.
    """

    mean: float
    low: float
    high: float
    n: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


def paired_difference(
    a: Sequence[float], b: Sequence[float], confidence: float = CONFIDENCE
) -> PairedDifference:
    """Returns the mean of ``a − b`` and its t-interval with ``n − 1`` degrees of freedom.

    The interval is exact if the differences are independent and normal. Seeds that share one test
    set measure the spread over trainings, not over test sets.

    Raises:
        ConfigError: If the lengths differ or there is no pair.
    """
    if len(a) != len(b) or not len(a):
        raise ConfigError(
            f"paired values must be equally many and at least one: {len(a)}, {len(b)}"
        )
    differences = np.asarray(a, dtype=float) - np.asarray(b, dtype=float)
    n, mean = len(differences), float(differences.mean())
    if n == 1:
        return PairedDifference(mean, math.nan, math.nan, n)
    error = float(differences.std(ddof=1)) / math.sqrt(n)
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * error
    return PairedDifference(mean, mean - half, mean + half, n)


def improvement(reference: float, value: float) -> float:
    """Returns ``(reference − value) · 100 / reference`` of an error, in %: positive is better."""
    return (reference - value) * 100 / reference if reference else math.nan


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Returns mean and sample standard deviation (NaN for a single value)."""
    array = np.asarray(values, dtype=float)
    return float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else math.nan
