"""Pictures of a data card: the periodic table of a data set, histograms, crystal systems."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from epitaxy.data.summaries import Histogram, Summary
from epitaxy.graph.symbols import SYMBOLS
from epitaxy.report.drawing import PALETTE, STYLE, ink_on, plain, png, pretty_unit

LOG_RATIO = 60
"""Histogram whose tallest bin exceeds the median of its filled bins by this has a log axis."""
ZEROS = 0.02
"""Share of exact zeros from which they are set off by colour."""

_LAST = 103
_LANTHANUM, _ACTINIUM = 57, 89
_ROWS = (2, 10, 18, 36, 54, 86, 118)
_ABSENT = "#f1f3f5"
_CENTRE: dict[str, Any] = {"ha": "center", "va": "center"}


def element_place(number: int) -> tuple[int, float]:
    """Returns (column 0 to 17, row from the top) of an element in the long periodic table.

    Lanthanides (57–71) and actinides (89–103) stand below, from the third column on.
    """
    for first, row in ((_LANTHANUM, 7.4), (_ACTINIUM, 8.4)):
        if first <= number < first + 15:
            return number - first + 2, row
    row = next(index for index, last in enumerate(_ROWS) if number <= last)
    place = number - (_ROWS[row - 1] if row else 0) - 1
    length = (2, 8, 8, 18, 18, 32, 32)[row]
    if length == 2:
        return (0 if place == 0 else 17), row
    if length == 8:
        return (place if place < 2 else place + 10), row
    if length == 18:
        return place, row
    return (place if place < 2 else place - 14), row


def short_count(count: int) -> str:
    """Returns a count in at most four characters: ``837``, ``1.2k``, ``24k``, ``3.1M``."""
    for factor, letter in ((1_000_000_000, "G"), (1_000_000, "M"), (1000, "k")):
        if count >= factor * 0.9995:
            scaled = count / factor
            return f"{scaled:.0f}{letter}" if scaled >= 9.95 else f"{scaled:.1f}{letter}"
    return str(count)


def periodic_table(counts: Mapping[str, int]) -> bytes:
    """Returns the periodic table with the number of records of each element, coloured by log."""
    colours = _blues()
    most = max(counts.values(), default=1)
    norm = LogNorm(1, max(most, 10))
    with rc_context(STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(10.2, 5.5))
        panel = figure.add_axes((0.004, 0.004, 0.992, 0.992))
        panel.set(xlim=(-0.05, 18.05), ylim=(9.5, -0.05), aspect="equal")
        panel.set_axis_off()
        last = max((SYMBOLS.index(symbol) for symbol in counts), default=0)
        for number in range(1, max(_LAST, last) + 1):
            count = counts.get(SYMBOLS[number], 0)
            _element(panel, number, count, colours(norm(count)) if count else None)
        for number, text in ((_LANTHANUM, "57–71"), (_ACTINIUM, "89–103")):
            row = 5 if number == _LANTHANUM else 6
            panel.text(
                2.5, row + 0.5, text, ha="center", va="center", fontsize=7.5, color="#6b7580"
            )
        _colour_bar(figure, norm, colours)
        return png(figure)


def histogram(
    summary: Summary, title: str, *, zeros: bool = True, log: bool | None = None
) -> bytes:
    """Returns the distribution of a quantity.

    Exact zeros that are many are set off; a dashed line marks the median. What lies outside the
    axis is counted in the histogram and to be told beside the picture.

    Args:
        summary: What to draw.
        title: Above the picture.
        zeros: Whether to set off exact zeros.
        log: Whether counts are drawn on a logarithmic axis; by their span unless given.
    """
    found = summary.histogram
    log = _spans_widely(found) if log is None else log
    with rc_context(STYLE):
        figure, panel = _panel()
        _bars(panel, found)
        if zeros and summary.zeros >= ZEROS * summary.count:
            _zero_bar(panel, found, summary.zeros, log)
        if found.edges[0] <= summary.median <= found.edges[-1]:
            panel.axvline(summary.median, color="#333333", linewidth=1.0, linestyle=(0, (4, 2)))
        panel.set_xlim(found.edges[0], found.edges[-1])
        panel.xaxis.set_major_locator(MaxNLocator(6))
        panel.set_xlabel(plain(pretty_unit(summary.unit)) or " ")
        panel.set_title(plain(title), loc="left", fontweight="bold")
        _count_axis(panel, summary.over, log)
        return png(figure)


def neighbors(by_radius: Sequence[tuple[float, Summary]]) -> bytes:
    """Returns the distributions of neighbours per atom at several radii in one picture."""
    with rc_context(STYLE):
        figure, panel = _panel()
        for (radius, summary), colour in zip(by_radius, PALETTE, strict=False):
            found = summary.histogram
            panel.stairs(
                found.counts, found.edges, fill=True, color=colour, alpha=0.35, linewidth=0
            )
            panel.stairs(found.counts, found.edges, color=colour, label=f"within {radius:g} Å")
        panel.set_xlim(left=0)
        panel.set_xlabel("neighbours per atom, averaged over a cell")
        panel.set_title("neighbours", loc="left", fontweight="bold")
        panel.legend(loc="upper right", fontsize=8)
        _count_axis(panel, "records", log=False)
        return png(figure)


def categories(counts: Mapping[str, int], title: str) -> bytes:
    """Returns bars with a number beside each, in the order given."""
    names = list(counts)
    with rc_context(STYLE):
        figure, panel = _panel(left=0.27)
        bars = panel.barh(names, list(counts.values()), color=PALETTE[0], height=0.7)
        panel.bar_label(bars, [f"{count:,}" for count in counts.values()], padding=3, fontsize=8)
        panel.invert_yaxis()
        panel.margins(x=0.16)
        panel.grid(visible=False)
        panel.xaxis.set_visible(False)
        panel.spines["bottom"].set_visible(False)
        panel.tick_params(axis="y", length=0)
        panel.set_title(title, loc="left", fontweight="bold")
        return png(figure)


def _panel(left: float = 0.155) -> tuple[Figure, Axes]:
    """Returns a picture with fixed margins, so that panels side by side are in line.

    Fixed also because finding the margins takes longer than drawing; counts fit by ``short_count``.
    """
    figure = Figure(figsize=(3.7, 2.45))
    return figure, figure.add_axes((left, 0.185, 0.985 - left, 0.7))


def _element(panel: Axes, number: int, count: int, colour: tuple[float, ...] | None) -> None:
    column, row = element_place(number)
    face = _ABSENT if colour is None else colour
    panel.add_patch(Rectangle((column + 0.03, row + 0.03), 0.94, 0.94, facecolor=face))
    ink = "#a3acb5" if colour is None else ink_on(face)
    height, weight = (0.5, "normal") if colour is None else (0.4, "bold")
    symbol = SYMBOLS[number]
    panel.text(
        column + 0.5, row + height, symbol, fontsize=14, color=ink, fontweight=weight, **_CENTRE
    )
    if colour is not None:
        text = short_count(count)
        panel.text(
            column + 0.5, row + 0.79, text, ha="center", va="center", fontsize=8.5, color=ink
        )


def _blues() -> Colormap:
    steps = colormaps["Blues"](np.linspace(0.12, 1.0, 64))
    return LinearSegmentedColormap.from_list("coverage", list(steps))


def _colour_bar(figure: Figure, norm: LogNorm, colours: Colormap) -> None:
    """Draws the scale into the gap above the transition metals."""
    bar = figure.add_axes((0.30, 0.885, 0.27, 0.026))
    steps = np.geomspace(norm.vmin or 1, norm.vmax or 10, 200)
    bar.pcolormesh(steps, [0, 1], steps[None, :-1], norm=norm, cmap=colours, rasterized=True)
    bar.set_xscale("log")
    bar.set_yticks([])
    bar.tick_params(axis="x", labelsize=8.5)
    bar.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_count(round(value))))
    bar.set_title("records that hold the element", fontsize=9.5, loc="left")
    for spine in bar.spines.values():
        spine.set_visible(False)


def _bars(panel: Axes, found: Histogram) -> None:
    panel.stairs(found.counts, found.edges, fill=True, color=PALETTE[0])


def _zero_bar(panel: Axes, found: Histogram, zeros: int, log: bool) -> None:
    """Colours exact zeros; on a logarithmic axis, where parts mislead, the whole bin of them."""
    for low, high, count in _bins(found):
        if low <= 0 < high:
            height = count if log else min(zeros, count)
            label = f"bin with {zeros:,} exact zeros" if log else f"{zeros:,} exact zeros"
            panel.bar(low, height, high - low, align="edge", color=PALETTE[1], label=label)
            panel.legend(loc="upper right", fontsize=8)


def _bins(found: Histogram) -> Iterator[tuple[float, float, int]]:
    return zip(found.edges[:-1], found.edges[1:], found.counts, strict=True)


def _spans_widely(found: Histogram) -> bool:
    filled = [count for count in found.counts if count]
    return bool(filled) and max(filled) > LOG_RATIO * float(np.median(filled))


def _count_axis(panel: Axes, over: str, log: bool) -> None:
    panel.grid(visible=False, axis="x")
    panel.set_ylabel(over)
    panel.yaxis.set_label_coords(-0.145, 0.5)
    if log:
        panel.set_yscale("log")
        panel.yaxis.set_minor_locator(NullLocator())
        panel.set_ylim(bottom=0.6)
    else:
        panel.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        panel.set_ylim(bottom=0)
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short_count(round(value))))
