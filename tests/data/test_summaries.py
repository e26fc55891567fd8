"""Robust statistics worked out by hand, with missing values, zeros, ties and wild numbers."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest

from epitaxy.data.summaries import Summary, histogram, summarise, summarise_components


def known(values: list[float], unit: str = "eV") -> Summary:
    ids = np.array([f"r{row}" for row in range(len(values))])
    summary = summarise(np.array(values), ids, unit)
    assert summary is not None
    return summary


def test_a_column_by_hand() -> None:
    """Sorted 0 0 1 2 3 100: deviations from 1.5 are 1.5 1.5 0.5 0.5 1.5 98.5; Σx² = 10014."""
    summary = known([3.0, 0.0, 100.0, np.nan, 1.0, 0.0, 2.0])
    assert (summary.records, summary.count, summary.missing, summary.unit) == (7, 6, 1, "eV")
    assert summary.mean == pytest.approx(106 / 6)
    assert summary.std == pytest.approx(np.sqrt(10014 / 6 - (106 / 6) ** 2))
    assert (summary.median, summary.mad) == (1.5, 1.5)
    assert summary.quantiles["0"] == 0
    assert summary.quantiles["0.25"] == pytest.approx(0.25)  # place 1.25 of 0…5
    assert summary.quantiles["0.75"] == pytest.approx(2.75)  # place 3.75
    assert summary.quantiles["0.99"] == pytest.approx(3 + 0.95 * 97)
    assert summary.quantiles["1"] == 100
    assert (summary.zeros, summary.distinct) == (2, 5)
    assert (summary.mode, summary.mode_count) == (0.0, 2)


def test_outliers_by_the_stated_rule() -> None:
    """Reach 10 · 1.4826 · 1.5 = 22.239 about 1.5: only 100 is outside."""
    summary = known([3.0, 0.0, 100.0, np.nan, 1.0, 0.0, 2.0])
    assert summary.outliers is not None
    assert summary.outliers.high == pytest.approx(23.739)
    assert summary.outliers.low == pytest.approx(-20.739)
    assert (summary.outliers.below, summary.outliers.above) == (0, 1)
    assert [(item.id, item.value) for item in summary.highest[:2]] == [("r2", 100.0), ("r0", 3.0)]
    assert [item.id for item in summary.lowest] == ["r1", "r5", "r4", "r6", "r0"]


def test_planted_outliers_are_named_on_their_side() -> None:
    values = np.linspace(-1, 1, 201)
    values[[17, 60]] = [-9e3, 4e4]
    summary = known(values.tolist())
    assert summary.outliers is not None
    assert (summary.outliers.below, summary.outliers.above) == (1, 1)
    assert (summary.lowest[0].id, summary.highest[0].id) == ("r17", "r60")
    assert len(summary.lowest) == len(summary.highest) == 5


def test_no_spread_no_outliers() -> None:
    """Four of six are zero, so half of all deviations are: nothing to measure 5 by."""
    summary = known([0.0, 0.0, 5.0, 0.0, 0.0, 1.0])
    assert summary.mad == 0
    assert summary.outliers is None
    assert (summary.zeros, summary.mode_count) == (4, 4)


def test_nothing_but_gaps() -> None:
    assert summarise(np.full(3, np.nan), np.array(["a", "b", "c"]), "eV") is None
    assert summarise_components([], np.array([]), "eV/Å", 3) is None


def test_a_single_value() -> None:
    summary = known([-7.25])
    assert (summary.mean, summary.std, summary.median, summary.mad) == (-7.25, 0, -7.25, 0)
    assert sum(summary.histogram.counts) == 1
    json.dumps(asdict(summary), allow_nan=False)


@pytest.mark.filterwarnings("error")
def test_the_largest_numbers_do_not_overflow() -> None:
    summary = known([1e300, 1e300, -1e300, 2.0])
    assert summary.std == pytest.approx(1e300 * np.sqrt(3 / 4 - 1 / 16))
    json.dumps(asdict(summary), allow_nan=False)


def test_components_name_records_once() -> None:
    """Values 0 0 0 −4, 3 3; the extremes of a record stand for it."""
    blocks = [np.array([[0, 0], [0, -4]], dtype=np.float32), np.array([3, 3], dtype=np.float32)]
    summary = summarise_components(blocks, np.array(["x", "y"]), "eV/Å", 5)
    assert summary is not None
    assert (summary.over, summary.count, summary.records, summary.missing) == (
        "components",
        6,
        5,
        3,
    )
    assert summary.mean == pytest.approx(2 / 6)
    assert (summary.zeros, summary.distinct, summary.mode, summary.mode_count) == (3, 3, 0.0, 3)
    assert [(item.id, item.value) for item in summary.lowest] == [("x", -4.0), ("y", 3.0)]
    assert [(item.id, item.value) for item in summary.highest] == [("y", 3.0), ("x", 0.0)]


def test_agrees_with_pandas_on_random_numbers() -> None:
    import pandas as pd

    values = np.random.default_rng(5).standard_t(2, 4000)
    values[::7] = np.nan
    column, summary = pd.Series(values), known(values.tolist())
    assert summary.mean == pytest.approx(column.mean(), abs=1e-12)
    assert summary.std == pytest.approx(column.std(ddof=0))
    assert summary.missing == column.isna().sum()
    for share, value in summary.quantiles.items():
        assert value == pytest.approx(column.quantile(float(share)))
    rule = (column - column.median()).abs() > 14.826 * (column - column.median()).abs().median()
    assert summary.outliers is not None
    assert summary.outliers.below + summary.outliers.above == rule.sum() > 0


@pytest.mark.parametrize(
    "values",
    [
        np.random.default_rng(0).normal(size=1000),
        np.random.default_rng(1).lognormal(sigma=3, size=1000),
        np.arange(50.0),
        np.arange(0, 3000.0, 7),
        np.array([0.3, 0.3, 0.3]),
        np.array([1e9, 1e9 + 1e-6]),
        np.array([0.1, 0.2, 0.3]),
        np.array([-5.0, 5.0]),
        np.array([1e-12, 2e-12]),
    ],
)
def test_no_value_is_lost_and_edges_are_round(values: np.ndarray) -> None:
    found = histogram(values)
    edges = np.array(found.edges)
    assert sum(found.counts) + found.below + found.above == len(values)
    assert found.below + found.above <= 0.011 * len(values)
    assert (np.diff(edges) > 0).all()
    assert 1 <= len(found.counts) <= 76
    for edge, low, high in zip(range(len(edges) - 1), edges, edges[1:], strict=False):
        last = edge == len(edges) - 2
        inside = (values >= low) & ((values <= high) if last else (values < high))
        assert found.counts[edge] == inside.sum()
    mantissa = float(f"{edges[1] - edges[0]:.6e}".partition("e")[0])
    assert mantissa in (1, 2, 2.5, 3, 5)  # 3 stands for 2.5 among whole numbers


def test_whole_numbers_stand_in_the_middle_of_their_bins() -> None:
    found = histogram(np.array([2.0, 2, 3, 5]))
    assert found.edges == (1.5, 2.5, 3.5, 4.5, 5.5)
    assert found.counts == (2, 1, 0, 1)


def test_far_values_do_not_squeeze_the_rest() -> None:
    values = np.concatenate([np.linspace(0, 1, 1000), [1e6], [-1e6]])
    found = histogram(values)
    assert (found.below, found.above) == (1, 1)
    assert -0.1 <= found.edges[0] <= 0
    assert 1 <= found.edges[-1] <= 1.1


def test_a_few_more_values_do_not_move_the_edges() -> None:
    values = np.random.default_rng(2).normal(size=5000)
    assert histogram(values).edges == histogram(values[:4990]).edges
