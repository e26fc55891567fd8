"""Draws docs/images/plan.png from a real plan: two data sets, four steps, two and three workers.

python docs/drawings/plan.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrow, Rectangle

from epitaxy.data.order import SetShare, Shuffle
from epitaxy.data.plan import Plan
from epitaxy.data.sidecars import keys_of

OUT = Path(__file__).parents[1] / "images" / "plan.png"
COLOURS = ("#3b6fb6", "#d98032")
NAMES = ("frames", "surfaces")
SIZES = (12, 5)
GREY = "#555555"


def make_plan() -> tuple[Plan, np.ndarray]:
    """Returns a plan of two sets, 2 : 1, and the cost of each record."""
    rng = np.random.default_rng(4)
    edges = np.round(rng.lognormal(0.0, 0.6, sum(SIZES)) * 100).astype(np.int64)
    sets = zip(NAMES, SIZES, strict=True)
    keys = np.concatenate([keys_of(f"{name}{i}" for i in range(size)) for name, size in sets])
    shares = [SetShare(SIZES[0], 2.0, "frames"), SetShare(SIZES[1], 1.0, "surfaces")]
    costs = {"edges": edges, "atoms": np.zeros_like(edges)}
    plan = Plan(keys, costs, edges=420, shuffle=Shuffle(seed=1), sets=shares, epoch_records=15)
    return plan, edges


def tile(axes: Axes, row: int, x: float, y: float, edges: np.ndarray) -> float:
    """Draws one record, as wide as it is dear; returns where the next one begins."""
    width = edges[row] / 100
    own = row < SIZES[0]
    colour = COLOURS[0] if own else COLOURS[1]
    name = f"{'f' if own else 's'}{row if own else row - SIZES[0]}"
    axes.add_patch(Rectangle((x, y), width, 0.7, facecolor=colour, edgecolor="white", lw=1.5))
    axes.text(x + width / 2, y + 0.34, name, ha="center", va="center", color="white", fontsize=7)
    return x + width


def line(axes: Axes, rows: np.ndarray, x: float, y: float, edges: np.ndarray) -> float:
    """Draws records side by side; returns where the last one ends."""
    for row in rows.tolist():
        x = tile(axes, row, x, y, edges)
    return x


def caption(axes: Axes, y: float, title: str, text: str) -> None:
    """Writes what a row of the drawing is."""
    axes.text(-7.2, y + 0.52, title, fontsize=9.5, weight="bold", va="center")
    axes.text(-7.2, y + 0.12, text, fontsize=7.5, va="center", color=GREY)


def draw_shares(axes: Axes, plan: Plan, edges: np.ndarray, world: int, top: float) -> None:
    """Draws what each of ``world`` ranks computes in every step, and for how long others wait."""
    x = 0.0
    for step in range(plan.num_steps(0)):
        shares = [plan.share(0, step, rank, world, 1)[0] for rank in range(world)]
        widest = max(edges[share].sum() for share in shares) / 100
        for rank, share in enumerate(shares):
            line(axes, share, x, top - 0.85 * rank, edges)
        low = top - 0.85 * (world - 1) - 0.1
        axes.plot([x + widest + 0.15] * 2, [low, top + 0.8], color="black", linewidth=1.2)
        x += widest + 0.3
    for rank in range(world):
        middle = top - 0.85 * rank + 0.34
        axes.text(-0.2, middle, f"rank {rank}", ha="right", va="center", fontsize=7)


def main() -> None:
    plan, edges = make_plan()
    figure, axes = plt.subplots(figsize=(11.5, 7.6))
    offsets = np.cumsum((0, *SIZES))
    for index, name in enumerate(NAMES):
        rows = np.arange(offsets[index], offsets[index + 1])
        end = line(axes, rows, 0.0, 9.2 - 0.95 * index, edges)
        told = f"{name}, weight {(2, 1)[index]}: {plan.draws[index]} of {SIZES[index]} per epoch"
        axes.text(end + 0.2, 9.54 - 0.95 * index, told, va="center", fontsize=8, color=GREY)
    caption(axes, 8.75, "training records", "split, filtered, width = edges")
    axes.add_patch(FancyArrow(9, 8.05, 0, -0.5, width=0.05, head_width=0.25, color=GREY))
    told = "order by a hash of (id, seed, pass); sets keep pace"
    axes.text(9.4, 7.75, told, fontsize=8, va="center")
    x = 0.0
    for step in range(plan.num_steps(0)):
        start = x
        x = line(axes, plan.step_rows(0, step), x, 6.5, edges)
        axes.plot([start + 0.05, x - 0.05], [6.35, 6.35], color="black", linewidth=1.2)
        axes.text((start + x) / 2, 6.12, f"step {step}", ha="center", va="center", fontsize=8)
        x += 0.3
    caption(axes, 6.5, "steps of an epoch", "at most 420 edges each")
    axes.add_patch(FancyArrow(9, 5.95, 0, -0.28, width=0.05, head_width=0.25, color=GREY))
    axes.text(9.4, 5.7, "dealt, most expensive first, to the least loaded", fontsize=8, va="center")
    draw_shares(axes, plan, edges, 2, 4.5)
    caption(axes, 4.2, "shares, 2 workers", "time runs right; at a bar gradients add")
    draw_shares(axes, plan, edges, 3, 2.3)
    caption(axes, 1.7, "shares, 3 workers", "same steps, same sums")
    axes.set_xlim(-7.3, 19.5)
    axes.set_ylim(0.2, 10.2)
    axes.axis("off")
    figure.tight_layout(pad=0.3)
    figure.savefig(OUT, dpi=130)


if __name__ == "__main__":
    main()
