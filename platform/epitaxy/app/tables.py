"""Tables for a terminal: aligned columns, numbers with their units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Returns ``rows`` (the first one is the header) as lines with aligned columns."""
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join(lines)


def number(value: object) -> str:
    """Returns four significant digits of a float, and anything else as text."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def metrics_table(metrics: Mapping[str, float], units: Mapping[str, str]) -> str:
    """Returns metrics with their units, one per line."""
    rows = [(name, number(value), units.get(name, "")) for name, value in sorted(metrics.items())]
    return columns([("metric", "value", "unit"), *rows])
