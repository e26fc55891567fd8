"""Intervals against hand-worked numbers and scipy's paired t-test."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from epitaxy.errors import ConfigError
from epitaxy.report.statistics import improvement, mean_and_spread, paired_difference


def test_by_hand() -> None:
    """Differences 1, 2, 3: mean 2, s = 1, t(0.975; 2) = 4.302653, half width 4.302653/√3."""
    found = paired_difference([2, 4, 6], [1, 2, 3])
    assert (found.mean, found.n) == (2, 3)
    assert found.low == pytest.approx(2 - 2.484138, abs=1e-6)
    assert found.high == pytest.approx(2 + 2.484138, abs=1e-6)
    assert not found.excludes_zero


@pytest.mark.parametrize("n", [2, 5, 30])
def test_equals_the_paired_t_test(n: int) -> None:
    rng = np.random.default_rng(n)
    a, b = rng.normal(0.4, 0.1, n), rng.normal(0.5, 0.1, n)
    found, reference = paired_difference(a, b), stats.ttest_rel(a, b)
    interval = reference.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.excludes_zero == (reference.pvalue < 0.05)


def test_common_spread_of_pairs_cancels() -> None:
    b = np.array([1.0, 5.0, 9.0])
    found = paired_difference(b - 0.5, b)
    assert (found.low, found.high) == pytest.approx((-0.5, -0.5))


def test_one_pair_has_no_interval() -> None:
    found = paired_difference([1.0], [2.0])
    assert found.mean == -1
    assert math.isnan(found.low)
    assert not found.excludes_zero
    assert math.isnan(mean_and_spread([1.0])[1])


@pytest.mark.parametrize(("a", "b"), [([], []), ([1.0], [1.0, 2.0])])
def test_what_cannot_be_paired_is_refused(a: list[float], b: list[float]) -> None:
    with pytest.raises(ConfigError, match="equally many"):
        paired_difference(a, b)


def test_improvement_is_positive_when_the_error_falls() -> None:
    assert improvement(0.5, 0.4) == pytest.approx(20)
    assert improvement(0.5, 0.6) == pytest.approx(-20)
