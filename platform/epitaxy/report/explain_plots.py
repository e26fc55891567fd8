"""Pictures of what a model weighs: a crystal with its edges, a composition, a feature mask."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from epitaxy.graph.record import AMOUNT
from epitaxy.graph.symbols import SYMBOLS
from epitaxy.predict.explain import EdgeWeights, Explanation
from epitaxy.report.crystal_view import View, view
from epitaxy.report.drawing import PALETTE, STYLE, ink_on, plain, png

SHOWN_FEATURES = 12
"""Largest, and as many smallest, weights of a mask that are drawn."""

_PAIRS = 6
_MARKERS = "osD^vP"
_OTHER = "#a3acb5"
_LEFT = (0.012, 0.185, 0.53, 0.715)
_RIGHT = (0.625, 0.12, 0.365, 0.775)


def picture(crystal: Explanation, title: str, model: str, names: Mapping[str, str]) -> bytes:
    """Returns what suits the record: ``crystal_picture`` or ``composition_picture``.

    Args:
        crystal: What is drawn.
        title: Above the picture, left.
        model: Name of the model, above the picture, right.
        names: What the weights over ``edges`` and ``atoms`` are.
    """
    draw = composition_picture if crystal.record.is_composition else crystal_picture
    return draw(crystal, title, model, names)


def crystal_picture(
    crystal: Explanation, title: str, model: str, names: Mapping[str, str]
) -> bytes:
    """Returns the crystal with its atoms and strongest edges, and all edges over their length."""
    seen = view(crystal.record, crystal.edges)
    with rc_context(STYLE):
        figure = Figure(figsize=(10.4, 5.6))
        figure.text(0.012, 0.955, plain(title), fontsize=11, fontweight="bold")
        figure.text(0.988, 0.955, plain(model), fontsize=9, color="#5c6670", ha="right")
        panel = figure.add_axes(_LEFT)
        _draw_crystal(panel, figure, seen, crystal, names)
        if crystal.edges is not None:
            _draw_distances(figure.add_axes(_RIGHT), crystal, crystal.edges, names)
        return png(figure)


def composition_picture(
    crystal: Explanation, title: str, model: str, names: Mapping[str, str]
) -> bytes:
    """Returns bars of the weight of each element beside its fraction, and the weights of pairs."""
    record = crystal.record
    symbols = [SYMBOLS[number] for number in record.numbers]
    amounts = record.labels[AMOUNT].value.reshape(-1).astype(np.float64)
    values = {"fraction in the formula": amounts / amounts.sum()}
    if crystal.pooled is not None:
        values[f"{names['atoms']} in the pool"] = crystal.pooled
    with rc_context(STYLE):
        figure = Figure(figsize=(9.2, 1.55 + 0.4 * max(len(symbols), 5)), layout="constrained")
        figure.suptitle(plain(title), x=0.012, ha="left", fontsize=11, fontweight="bold")
        figure.text(0.988, 0.985, plain(model), fontsize=9, color="#5c6670", ha="right", va="top")
        bars, pairs = figure.subplots(1, 2, width_ratios=(1.25, 1.0))
        height = 0.8 / len(values)
        for place, (name, value) in enumerate(values.items()):
            rows = np.arange(len(symbols)) + (place - (len(values) - 1) / 2) * height
            colour = PALETTE[0] if place else "#c3cad1"
            drawn = bars.barh(rows, value, height * 0.92, color=colour, label=name)
            bars.bar_label(drawn, [f"{number:.3f}" for number in value], padding=3, fontsize=8)
        bars.set_yticks(range(len(symbols)), symbols)
        bars.invert_yaxis()
        bars.margins(x=0.14)
        bars.grid(visible=False, axis="y")
        bars.tick_params(axis="y", length=0, labelsize=10)
        bars.set_xlabel("share (adds up to 1)")
        bars.set_title("elements in the crystal vector", loc="left")
        bars.legend(loc="upper left", bbox_to_anchor=(0.0, -0.13), ncols=2, fontsize=8.5)
        _draw_pairs(figure, pairs, crystal, symbols, names)
        return png(figure)


def mask_picture(weights: Mapping[str, float], shown: int = SHOWN_FEATURES) -> bytes:
    """Returns bars of the largest and the smallest weights of element features."""
    groups = mask_extremes(weights, shown)
    names = [name for group in groups for name in group]
    gap = 1.0 if len(groups) > 1 else 0.0
    places = np.concatenate(
        [
            np.arange(len(group)) + index * (len(groups[0]) + gap)
            for index, group in enumerate(groups)
        ]
    )
    values = np.array([weights[name] for name in names])
    with rc_context(STYLE):
        figure = Figure(figsize=(7.6, 1.1 + 0.235 * (len(names) + gap)), layout="constrained")
        panel = figure.add_subplot()
        colours = [PALETTE[0] if value >= 1 else PALETTE[1] for value in values]
        drawn = panel.barh(places, values - 1.0, 0.74, left=1.0, color=colours)
        digits = _digits(float(np.abs(values - 1.0).max()))
        panel.bar_label(drawn, [f"{value:.{digits}f}" for value in values], padding=3, fontsize=8)
        panel.ticklabel_format(axis="x", useOffset=False)
        panel.xaxis.set_major_locator(MaxNLocator(6))
        panel.axvline(1.0, color="#333333", linewidth=1.0)
        panel.set_yticks(places, [plain(name) for name in names])
        panel.invert_yaxis()
        panel.margins(x=0.12, y=0.02)
        panel.grid(visible=False, axis="y")
        panel.tick_params(axis="y", length=0)
        panel.set_xlabel("weight of the feature (1 before training)")
        title = f"feature mask, all {len(names)} features"
        if gap:
            title = f"feature mask: the {shown} largest and smallest of {len(weights)} weights"
        panel.set_title(title, loc="left", fontweight="bold")
        return png(figure)


def _digits(step: float) -> int:
    """Returns the decimals that tell numbers apart which differ by ``step``."""
    return 2 if step >= 0.1 or step == 0 else min(2 - math.floor(math.log10(step)) - 1, 9)


def mask_extremes(weights: Mapping[str, float], shown: int = SHOWN_FEATURES) -> list[list[str]]:
    """Returns the features of the largest and of the smallest weights, each from large to small."""
    ordered = sorted(weights, key=lambda name: -weights[name])
    if len(ordered) <= 2 * shown:
        return [ordered]
    return [ordered[:shown], ordered[-shown:]]


def atom_weights(crystal: Explanation, names: Mapping[str, str]) -> tuple[str, np.ndarray]:
    """Returns the weights that atoms are coloured by, and what they are."""
    if crystal.pooled is not None:
        return f"{names['atoms']} over atoms", crystal.pooled
    if crystal.edges is not None and crystal.sent is not None:
        return f"{_edge_quantity(crystal.edges, names)} sent, sum", crystal.sent
    return "", np.zeros(crystal.record.num_atoms)


def _draw_crystal(
    panel: Axes, figure: Figure, seen: View, crystal: Explanation, names: Mapping[str, str]
) -> None:
    panel.set_axis_off()
    low, per_length = _fit(panel, figure, seen)
    cell = LineCollection(list(seen.outline), colors="#9aa4ad", linewidths=0.9, zorder=1)
    panel.add_collection(cell)
    quantity, weights = atom_weights(crystal, names)
    norm, colours = _scale(weights, "YlOrRd", "PuOr")
    if len(seen.bonds) and crystal.edges is not None:
        bond_norm, bond_colours = _scale(seen.weights, "Blues", "PuOr")
        _draw_bonds(panel, seen, bond_norm, bond_colours, per_length)
        name = f"{_edge_quantity(crystal.edges, names)} of edges"
        _bar(figure, (0.30, 0.115, 0.22, 0.024), bond_norm, bond_colours, name)
        note = f"{len(seen.bonds)} lines: strongest into each atom, of {len(crystal.edges):,} edges"
        figure.text(0.30, 0.025, note, fontsize=8, color="#5c6670")
    _draw_atoms(panel, seen, crystal, colours(norm(weights)), per_length)
    _bar(figure, (0.02, 0.115, 0.22, 0.024), norm, colours, quantity)
    _length_bar(panel, low)
    panel.set_title(f"seen along {seen.axis}, tilted; images pale", loc="left")


def _fit(panel: Axes, figure: Figure, seen: View) -> tuple[np.ndarray, float]:
    """Sets limits that hold everything at one scale; returns the lower ones and points per Å."""
    everything = np.concatenate([seen.points, seen.outline.reshape(-1, 2)])
    room = np.array(_LEFT[2:]) * figure.get_size_inches() * 72
    span = np.maximum(np.ptp(everything, axis=0) + 1.4, 4.0)
    per_length = float((room / span).min())
    middle = (everything.min(0) + everything.max(0)) / 2
    low, high = middle - room / per_length / 2, middle + room / per_length / 2
    panel.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    return low, per_length


def _draw_bonds(
    panel: Axes, seen: View, norm: Normalize, colours: Colormap, per_length: float
) -> None:
    thick = float(np.clip(0.13 * per_length, 1.1, 4.2))
    largest = np.abs(seen.weights).max() or 1.0
    depth = seen.depth[seen.bonds].mean(1)
    order = np.argsort(depth)
    lines = LineCollection(
        list(seen.points[seen.bonds[order]]),
        colors=colours(norm(seen.weights[order])),
        linewidths=thick * (0.15 + 0.85 * np.abs(seen.weights[order]) / largest),
        capstyle="round",
        zorder=2,
    )
    panel.add_collection(lines)


def _draw_atoms(
    panel: Axes, seen: View, crystal: Explanation, faces: np.ndarray, per_length: float
) -> None:
    """Draws atoms from back to front; images outside the cell are smaller and pale."""
    radius = float(np.clip(0.36 * per_length, 3.2, 12.5))
    for rank, point in enumerate(np.argsort(seen.depth)):
        atom, inside = seen.atoms[point], seen.inside[point]
        face = np.array(faces[atom][:3])
        size = radius if inside else 0.74 * radius
        shade = face if inside else 0.45 * face + 0.55
        zorder = 3 + rank / len(seen.points)
        panel.plot(
            *seen.points[point], "o", markersize=2 * size, markerfacecolor=shade,
            markeredgecolor="#3b4651" if inside else "#b4bcc4", markeredgewidth=0.8, zorder=zorder,
        )  # fmt: skip
        panel.annotate(
            SYMBOLS[crystal.record.numbers[atom]], tuple(seen.points[point]), ha="center",
            va="center", fontsize=0.95 * size, zorder=zorder,
            color=ink_on(shade) if inside else "#56606a",
        )  # fmt: skip


def _draw_distances(
    panel: Axes, crystal: Explanation, edges: EdgeWeights, names: Mapping[str, str]
) -> None:
    """Draws every edge over its length, coloured by the pair of elements."""
    if edges.distances is None or not len(edges):
        panel.set_axis_off()
        panel.set_title("no edges", loc="left")
        return
    pairs = element_pairs(crystal)
    first = {pair: float(edges.distances[pairs == pair].min()) for pair in np.unique(pairs)}
    largest = {pair: float(np.abs(edges.mean[pairs == pair]).max()) for pair in first}
    strong = sorted(first, key=lambda pair: -largest[pair])
    named = sorted(strong[:_PAIRS], key=lambda pair: first[pair])
    others = np.isin(pairs, named, invert=True)
    if others.any():
        panel.scatter(
            edges.distances[others], edges.mean[others], s=12, color=_OTHER, linewidths=0,
            label=f"{len(first) - len(named)} other pairs",
        )  # fmt: skip
    for pair, colour, marker in zip(named, PALETTE, _MARKERS, strict=False):
        chosen = pairs == pair
        panel.scatter(
            edges.distances[chosen], edges.mean[chosen], s=20, color=colour, marker=marker,
            linewidths=0.4, edgecolors="white", alpha=0.9, label=plain(pair),
        )  # fmt: skip
    low, high = float(edges.mean.min()), float(edges.mean.max())
    if low < -1e-3 * abs(high):
        panel.axhline(0.0, color="#333333", linewidth=0.8)
        panel.margins(y=0.1)
    else:
        panel.set_ylim(0.0, 1.1 * high or 1.0)
    panel.set_xlabel("distance (Å)")
    layers = edges.layers.shape[1]
    over = f"mean of {layers} layers" if layers > 1 else "1 layer"
    panel.set_ylabel(f"{_edge_quantity(edges, names)}, {over}")
    panel.set_title("all edges", loc="left")
    low, high = float(edges.distances.min()), float(edges.distances.max())
    panel.set_xlim(min(low, 1.0) - 0.15, high + 0.15)
    handles, texts = panel.get_legend_handles_labels()
    if others.any():  # drawn first, named last
        handles, texts = handles[1:] + handles[:1], texts[1:] + texts[:1]
    panel.legend(handles, texts, loc="best", fontsize=8, handletextpad=0.3)


def _edge_quantity(edges: EdgeWeights, names: Mapping[str, str]) -> str:
    return names["edges"] + (" × envelope" if edges.envelope is not None else "")


def element_pairs(crystal: Explanation) -> np.ndarray:
    """Returns the elements that each edge joins, such as ``O-Ti``, whatever the direction."""
    if crystal.edges is None:
        return np.array([], dtype=str)
    symbols = np.array(SYMBOLS)[crystal.record.numbers]
    both = np.sort(np.stack([symbols[crystal.edges.source], symbols[crystal.edges.target]]), axis=0)
    pairs: np.ndarray = np.char.add(np.char.add(both[0], "-"), both[1])
    return pairs


def _draw_pairs(
    figure: Figure, panel: Axes, crystal: Explanation, symbols: list[str], names: Mapping[str, str]
) -> None:
    """Draws the weight of each ordered pair of elements as a square."""
    if crystal.edges is None:
        panel.set_axis_off()
        return
    matrix = np.zeros((len(symbols), len(symbols)))
    matrix[crystal.edges.target, crystal.edges.source] = crystal.edges.mean
    norm, colours = _scale(matrix.ravel(), "Blues", "PuOr")
    drawn = panel.imshow(matrix, norm=norm, cmap=colours)
    if len(symbols) <= 8:
        for row, column in np.ndindex(*matrix.shape):
            panel.text(
                column, row, f"{matrix[row, column]:.2f}", ha="center", va="center", fontsize=8,
                color=ink_on(colours(norm(matrix[row, column]))[:3]),
            )  # fmt: skip
    else:
        figure.colorbar(drawn, ax=panel, shrink=0.8)
    panel.set_xticks(range(len(symbols)), symbols)
    panel.set_yticks(range(len(symbols)), symbols)
    panel.set_xlabel("from element")
    panel.set_ylabel("to element")
    panel.grid(visible=False)
    panel.tick_params(length=0)
    layers = crystal.edges.layers.shape[1]
    panel.set_title(f"{names['edges']} between elements, mean of {layers} layers", loc="left")


def _scale(values: np.ndarray, plain_map: str, signed_map: str) -> tuple[Normalize, Colormap]:
    """Returns colours over the values: one hue if all have a sign, else two that meet at zero.

    The scale spans a tenth of the largest value at least, so that trifles get one colour.
    """
    low, high = float(values.min()), float(values.max())
    if low < -1e-3 * high < 0:
        reach = max(-low, high)
        return TwoSlopeNorm(0.0, -reach, reach), colormaps[signed_map]
    least = 0.1 * max(abs(low), abs(high)) or 1.0
    if high - low < least:
        middle = (low + high) / 2
        low, high = middle - least / 2, middle + least / 2
    steps: Any = colormaps[plain_map](np.linspace(0.22, 0.95, 64))
    return Normalize(low, high), LinearSegmentedColormap.from_list(plain_map, list(steps))


def _bar(
    figure: Figure, place: tuple[float, float, float, float], norm: Normalize, colours: Colormap,
    title: str,
) -> None:  # fmt: skip
    axes = figure.add_axes(place)
    bar = figure.colorbar(ScalarMappable(norm, colours), cax=axes, orientation="horizontal")
    bar.locator = MaxNLocator(4)
    bar.update_ticks()
    bar.outline.set_visible(False)
    axes.tick_params(labelsize=8, length=2)
    axes.set_title(title, loc="left", fontsize=8.5)


def _length_bar(panel: Axes, low: np.ndarray) -> None:
    """Draws a bar of 1, 2, 5 or 10 Å into the lower left corner."""
    left, right = panel.get_xlim()
    length = max((step for step in (1, 2, 5, 10) if step < 0.2 * (right - left)), default=1)
    start = left + 0.02 * (right - left)
    panel.plot([start, start + length], [low[1]] * 2, color="#3b4651", linewidth=3.0)
    panel.annotate(
        f"{length} Å", (start + length / 2, low[1]), xytext=(0, 4),
        textcoords="offset points", ha="center", fontsize=8, color="#3b4651",
    )  # fmt: skip
