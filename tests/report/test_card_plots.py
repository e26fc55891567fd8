"""Pictures of a data card: every element at its place, counts that fit, extremes drawn."""

from __future__ import annotations

import numpy as np
import pytest

from epitaxy.data.summaries import summarise
from epitaxy.graph.symbols import SYMBOLS
from epitaxy.report.card_plots import (
    categories,
    element_place,
    histogram,
    neighbors,
    periodic_table,
    short_count,
)

PNG = b"\x89PNG\r\n\x1a\n"


def test_no_two_elements_share_a_place() -> None:
    places = [element_place(number) for number in range(1, 119)]
    assert len(set(places)) == 118
    assert all(0 <= column <= 17 for column, _ in places)


@pytest.mark.parametrize(
    ("symbol", "column", "row"),
    [("H", 1, 1), ("He", 18, 1), ("Li", 1, 2), ("B", 13, 2), ("Ne", 18, 2), ("Mg", 2, 3),
     ("Al", 13, 3), ("K", 1, 4), ("Sc", 3, 4), ("Zn", 12, 4), ("Ga", 13, 4), ("Xe", 18, 5),
     ("Ba", 2, 6), ("Hf", 4, 6), ("Au", 11, 6), ("Rn", 18, 6), ("Ra", 2, 7), ("Rf", 4, 7),
     ("Og", 18, 7)],
)  # fmt: skip
def test_elements_stand_in_their_group_and_period(symbol: str, column: int, row: int) -> None:
    assert element_place(SYMBOLS.index(symbol)) == (column - 1, row - 1)


def test_lanthanides_and_actinides_stand_below() -> None:
    """La under Ac's neighbourless row start; Ce over Th, Lu over Lr."""
    rows = {
        name: element_place(SYMBOLS.index(name)) for name in ("La", "Lu", "Ac", "Th", "Ce", "Lr")
    }
    assert rows["La"][1] == rows["Lu"][1] == rows["Ce"][1] > 6
    assert rows["Ac"][1] == rows["Lr"][1] == rows["La"][1] + 1
    assert rows["Ce"][0] == rows["Th"][0]
    assert rows["Lu"][0] == rows["Lr"][0] == 16


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (7, "7"), (999, "999"), (1000, "1.0k"), (1249, "1.2k"), (9949, "9.9k"),
     (9950, "10k"), (30325, "30k"), (999_400, "999k"), (999_600, "1.0M"), (3_100_000, "3.1M"),
     (118_000_000, "118M"), (2_000_000_000, "2.0G")],
)  # fmt: skip
def test_counts_fit_a_cell(count: int, text: str) -> None:
    assert short_count(count) == text
    assert len(text) <= 4


@pytest.mark.parametrize("counts", [{}, {"H": 1}, {"Og": 3, "O": 10**8}])
def test_periodic_tables_of_few_and_many(counts: dict[str, int]) -> None:
    assert periodic_table(counts).startswith(PNG)


@pytest.mark.parametrize(
    "values",
    [
        np.array([3.0]),
        np.full(10, -2.5),
        np.concatenate([np.zeros(900), np.linspace(0.1, 5, 100)]),
        np.array([1e-30, 2e-30]),
        np.array([-1e300, 1e300, 0.0]),
        np.arange(5.0),
    ],
)
@pytest.mark.parametrize("unit", ["eV", "$^", ""])
def test_histograms_of_strange_columns(values: np.ndarray, unit: str) -> None:
    summary = summarise(values, np.array([f"r{row}" for row in range(len(values))]), unit)
    assert summary is not None
    for log in (True, False, None):
        assert histogram(summary, "a $ b", log=log).startswith(PNG)


def test_the_same_numbers_give_the_same_picture() -> None:
    summary = summarise(np.arange(30.0), np.array([f"r{row}" for row in range(30)]), "eV")
    assert summary is not None
    assert histogram(summary, "x") == histogram(summary, "x")
    assert neighbors([(5.0, summary), (8.0, summary)]).startswith(PNG)
    assert categories({"cubic": 3, "unknown": 0}, "systems").startswith(PNG)
