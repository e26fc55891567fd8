"""Numbers as they are printed."""

from __future__ import annotations

import math

import pytest

from epitaxy.report.tables import number, table


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.12345, "0.123"), (-12.345, "−12.3"), (1234.5, "1234"), (0.0, "0"), (math.nan, "–"),
     (0.00012345, "1.23·10⁻⁴"), (-2.5e6, "−2.50·10⁶"), (1.0, "1.00")],
)  # fmt: skip
def test_three_significant_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_cells_are_escaped() -> None:
    assert "<td>a&lt;b</td>" in table(["x"], [["a<b"]])
