"""Statistics of a data set as text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from epitaxy.data.summaries import OUTLIER_RULE, Summary

if TYPE_CHECKING:
    from epitaxy.data.statistics import Statistics, Tally

_HEADER = ("", "unit", "values", "missing", "min", "1 %", "median", "99 %", "max", "zeros",
           "outliers")  # fmt: skip


def statistics_text(statistics: Statistics) -> str:
    """Returns the main numbers: what there is, labels, geometry, neighbours."""
    lines = [
        f"{statistics.records} records, {statistics.atoms} atoms, "
        f"{len(statistics.elements.records)} elements",
        f"no record with   {' '.join(statistics.elements.absent['94']) or '–'} (up to Pu)",
        f"formulas         {_tally_text(statistics.formulas)}",
        f"groups           {_tally_text(statistics.groups)}",
    ]
    for name, counts in statistics.categories.items():
        if name == "crystal_system":
            kinds = ", ".join(f"{kind} {count}" for kind, count in counts.items() if count)
            lines.append(f"crystal systems  {kinds}")
    if statistics.labels:
        lines += ["", "labels", *_summary_lines(statistics.labels)]
    if statistics.geometry:
        lines += ["", "geometry", *_summary_lines(statistics.geometry)]
        lines += ["", *_neighbor_lines(statistics)]
    lines += [
        "",
        f"read for volumes, distances and components: {statistics.reading}",
        f"outliers: {OUTLIER_RULE}",
    ]
    return "\n".join(lines)


def _tally_text(tally: Tally) -> str:
    text = f"{tally.distinct} different"
    if not tally.repeated:
        return text
    name, count = tally.largest[0]
    return f"{text}, {tally.repeated} of them more than once, most often {name} ({count})"


def _summary_lines(summaries: Mapping[str, Summary]) -> list[str]:
    rows: list[Sequence[str]] = [_HEADER]
    for name, summary in summaries.items():
        quantiles, outliers = summary.quantiles, summary.outliers
        rows.append(
            (
                name,
                summary.unit or "-",
                str(summary.count),
                str(summary.missing),
                *(f"{quantiles[share]:.4g}" for share in ("0", "0.01", "0.5", "0.99", "1")),
                str(summary.zeros),
                "-" if outliers is None else str(outliers.below + outliers.above),
            )
        )
    return _aligned(rows)


def _neighbor_lines(statistics: Statistics) -> list[str]:
    rows: list[Sequence[str]] = [("neighbours within", "per atom", "isolated atoms")]
    for item in statistics.neighbors:
        isolated = "-" if item.isolated is None else f"{100 * item.isolated:.3g} %"
        rows.append((f"{item.radius:g} Å", f"{item.mean:.4g}", isolated))
    return _aligned(rows)


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
