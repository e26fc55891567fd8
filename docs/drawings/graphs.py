"""Draws docs/images/ties.png: one crystal numbered in two ways, ties cut and kept.

python docs/drawings/graphs.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from epitaxy.graph.neighbors import Edges, build_edges
from epitaxy.graph.spec import GraphSpec, Ties

OUT = Path(__file__).parents[1] / "images" / "ties.png"
COLOURS = {11: "#3b6fb6", 19: "#d98032"}
SQUARE = 3.0
"""Å between atoms."""
LIMIT = 2
CELLS = 2


def draw(axes: Axes, order: tuple[int, int], ties: Ties, title: str, text: str) -> None:
    """Draws the planar crystal, rows of two elements, with its atoms numbered in ``order``."""
    numbers = np.array([11, 19])[list(order)]
    positions = np.array([[0.0, 0, 0], [0, SQUARE, 0]])[list(order)]
    cell = np.diag([SQUARE, 2 * SQUARE, 1.0])
    pbc = np.array([[True, True, False]])
    spec = GraphSpec("nearest", 8.0, LIMIT, ties=ties)
    edges = build_edges(spec, positions, cell[None], pbc, np.array([0, 2]))
    for i in range(2 * CELLS):
        for j in range(CELLS):
            offset = np.array([i, j, 0]) @ cell
            arrows(axes, positions + offset, edges, cell)
            for atom in range(2):
                x, y, _ = positions[atom] + offset
                axes.scatter(x, y, s=420, color=COLOURS[int(numbers[atom])], zorder=3)
                axes.text(x, y, str(atom), color="white", ha="center", va="center", zorder=4)
    axes.set_title(f"{title}\n\n", fontsize=11, weight="bold")
    axes.text(0.5, 1.02, text, transform=axes.transAxes, ha="center", fontsize=8.5, color="#555555")
    axes.set(xlim=(-2, 3 * SQUARE + 2), ylim=(-2, 3 * SQUARE + 3.2), aspect="equal")
    axes.axis("off")


def arrows(axes: Axes, positions: np.ndarray, edges: Edges, cell: np.ndarray) -> None:
    """Draws every edge from its neighbour to its centre, a little beside the line between them."""
    columns = zip(edges.source.tolist(), edges.target.tolist(), edges.shifts, strict=True)
    for source, target, shift in columns:
        start, end = positions[source] + shift @ cell, positions[target]
        along = (end - start)[:2] / np.linalg.norm(end - start)
        beside = 0.16 * np.array([-along[1], along[0]])
        axes.annotate(
            "",
            xy=end[:2] - 0.62 * along + beside,
            xytext=start[:2] + 0.62 * along + beside,
            arrowprops={"arrowstyle": "-|>", "color": "#333333", "linewidth": 1.1},
        )


def main() -> None:
    """Draws both numberings with ties cut, and one with ties kept."""
    figure, (one, other, both) = plt.subplots(1, 3, figsize=(11, 4.1))
    draw(one, (0, 1), "cut", "ties=cut", "blue is atom 0:\neverybody hears blue only")
    draw(other, (1, 0), "cut", "ties=cut", "orange is atom 0:\neverybody hears orange only")
    draw(
        both,
        (0, 1),
        "keep",
        "ties=keep",
        "everybody hears all four neighbours,\nwhatever the numbering",
    )
    figure.savefig(OUT, dpi=130, bbox_inches="tight", facecolor="white")


if __name__ == "__main__":
    main()
