"""The pictures of ``objectives.py``: learning curves, and forces against forces."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 4


def draw_curves(
    curves: Sequence[Mapping[str, Any]], table: Sequence[Mapping[str, Any]], path: Path
) -> None:
    """Draws a panel per experiment: validation loss by epoch, and what its figures came to."""
    names = list(dict.fromkeys(row["experiment"] for row in curves))
    with _styled():
        figure, panels = _grid(names, 3.3, 2.3)
        for panel, name in zip(panels, names, strict=False):
            points = [(r["epoch"], r["val_loss"]) for r in curves if r["experiment"] == name]
            panel.plot(*zip(*points, strict=True), color=_palette()[0], marker="o", markersize=2.5)
            panel.set_title(_words(name), loc="left", fontsize=9)
            panel.set_xlabel("epoch", fontsize=8)
            panel.set_xlim(0.5, points[-1][0] + 0.5)
            told = [
                f"{row['name']}: {row['learnt']:.3g} (trivial {row['trivial']:.3g})"
                for row in table
                if row["experiment"] == name
            ]
            panel.text(
                0.97, 0.95, "\n".join(told[:4]), transform=panel.transAxes, ha="right", va="top",
                fontsize=6.5, color="#444444",
                bbox={"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 1.0},
            )  # fmt: skip
        figure.supylabel("validation loss", fontsize=9)
        _save(figure, path)


def draw_parity(parities: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draws a panel per variant: what was predicted against what is true."""
    names = [name for name, parity in parities.items() if parity]
    with _styled():
        figure, panels = _grid(names, 2.9, 2.9)
        for panel, name in zip(panels, names, strict=False):
            _draw_one(panel, name, parities[name])
        _save(figure, path)


def _draw_one(panel: Axes, name: str, parity: Mapping[str, Any]) -> None:
    true, predicted = (np.array(parity[key]) for key in ("true", "predicted"))
    limit = float(np.quantile(np.abs(true), 0.995)) * 1.1 or 1.0
    panel.plot([-limit, limit], [-limit, limit], color="#999999", linewidth=0.8)
    panel.scatter(true, predicted, s=3, alpha=0.35, color=_palette()[0], linewidths=0)
    panel.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
    error = float(np.abs(true - predicted).mean())
    panel.set_title(_words(name.removeprefix("force_pretraining_")), loc="left", fontsize=9)
    text = f"MAE {error:.3g} {parity['unit']}\n(zero: {np.abs(true).mean():.3g})"
    panel.text(0.04, 0.96, text, transform=panel.transAxes, va="top", fontsize=7.5)
    panel.set_xlabel(f"{parity['label']}, true ({parity['unit']})", fontsize=8)
    panel.set_ylabel("predicted", fontsize=8)


def _words(name: str) -> str:
    """Returns an experiment's name to read: ratios with colons, words with spaces."""
    return re.sub(r"(\d+)_(\d+)_(\d+)", r"\1:\2:\3", name).replace("_", " ")


def _grid(names: Sequence[str], width: float, height: float) -> tuple[Any, list[Axes]]:
    from matplotlib.figure import Figure

    rows = -(-len(names) // COLUMNS)
    figure = Figure(figsize=(width * COLUMNS, height * rows), layout="constrained")
    panels = list(np.atleast_1d(figure.subplots(rows, COLUMNS)).flat)
    for panel in panels[len(names) :]:
        panel.set_axis_off()
    for panel in panels:
        panel.tick_params(labelsize=7)
    return figure, panels


def _styled() -> Any:
    from matplotlib import rc_context

    from epitaxy.report.drawing import STYLE

    return rc_context(STYLE)


def _palette() -> Sequence[str]:
    from epitaxy.report.drawing import PALETTE

    return PALETTE


def _save(figure: Any, path: Path) -> None:
    from epitaxy.report.drawing import png

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(figure))
