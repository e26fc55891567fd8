"""Pictures of a report as PNG, in colours that colour-blind readers can tell apart."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from epitaxy.predict.evaluation import Parity, Quantity
from epitaxy.report.collect import RunSummary
from epitaxy.report.compare import Comparison
from epitaxy.report.drawing import PALETTE, STYLE, png, pretty_name, pretty_unit

DENSE = 3000
"""Points above which a parity plot shows densities."""
SHOWN = 0.998
"""Share of the labels that the axes of a dense parity plot span at least."""


def learning_curves(run: RunSummary) -> bytes:
    """Returns loss and validation errors of one run over the epochs."""
    names = _validation_names([run])
    with rc_context(STYLE):
        figure, panels = _panels(1 + len(names))
        train, val = run.lines("train"), run.lines("val")
        loss = panels[0]
        _curve(loss, train, "train/loss", PALETTE[5], "training", run, linewidth=0.9)
        _curve(loss, val, "val/loss", PALETTE[1], "validation", run, marker="o")
        _label(loss, "loss", "", _values([*train, *val], ("train/loss", "val/loss")))
        loss.legend(loc="upper right", fontsize=8)
        for panel, name in zip(panels[1:], names, strict=False):
            _curve(panel, val, name, PALETTE[1], "", run, marker="o")
            _label(panel, _title(name), run.units.get(name, ""), _values(val, (name,)))
        return png(figure)


def comparison_curves(comparison: Comparison) -> bytes:
    """Returns the validation error over the epochs: every seed thin, the mean of an arm thick."""
    name = f"val/{comparison.label}_mae"
    with rc_context(STYLE):
        figure, panels = _panels(1)
        panel, values = panels[0], []
        for colour, (arm, runs) in zip(PALETTE, comparison.runs.items(), strict=False):
            curves = []
            for run in runs:
                points = _points(run.lines("val"), name, run)
                values += [y for _, y in points]
                curves.append(dict(points))
                panel.plot(*zip(*points, strict=True), color=colour, alpha=0.35, linewidth=0.8)
            common = sorted(set.intersection(*(set(curve) for curve in curves)))
            mean = [float(np.mean([curve[x] for curve in curves])) for x in common]
            panel.plot(common, mean, color=colour, linewidth=2.0, label=arm)
        _label(panel, f"validation MAE of {pretty_name(comparison.label)}", comparison.unit, values)
        panel.legend(loc="upper right", fontsize=8)
        return png(figure)


def paired_errors(comparison: Comparison) -> bytes:
    """Returns the error of every run, the runs of a seed joined by a line, means as bars."""
    arms = list(comparison.arms)
    with rc_context(STYLE):
        figure, panels = _panels(1)
        panel = panels[0]
        for pair in zip(*comparison.arms.values(), strict=True):
            panel.plot(range(len(arms)), pair, color="#9a9a9a", linewidth=0.8, zorder=1)
        for place, (arm, colour) in enumerate(zip(arms, PALETTE * len(arms), strict=False)):
            values = comparison.arms[arm]
            panel.scatter([place] * len(values), values, color=colour, s=22, zorder=3)
            panel.hlines(float(np.mean(values)), place - 0.16, place + 0.16, colour, linewidth=2.5)
        panel.set_xticks(range(len(arms)), [arm.replace(", ", "\n") for arm in arms])
        panel.set_xlim(-0.5, len(arms) - 0.5)
        panel.grid(visible=False, axis="x")
        panel.set_ylabel(f"MAE ({pretty_unit(comparison.unit)})" if comparison.unit else "MAE")
        panel.set_title(f"{comparison.split} MAE, one line per seed", loc="left")
        return png(figure)


def parity(name: str, quantity: Quantity, values: Parity) -> bytes:
    """Returns prediction over label, as density if there are many points.

    The axes of a dense plot leave out extreme labels; how many points lie outside is written there.
    """
    finite = np.isfinite(values.predicted)
    target, predicted = values.target[finite], values.predicted[finite]
    low, high = _span(target, predicted)
    inside = (np.minimum(target, predicted) >= low) & (np.maximum(target, predicted) <= high)
    with rc_context(STYLE):
        figure = Figure(figsize=(3.7, 3.7), layout="constrained")
        panel = figure.add_subplot()
        panel.plot([low, high], [low, high], color="#777777", linewidth=0.8, zorder=2)
        if inside.sum() > DENSE:
            density = panel.hexbin(
                target[inside], predicted[inside], gridsize=70, bins="log", mincnt=1,
                extent=(low, high, low, high), cmap=_density_colours(), linewidths=0.1, zorder=3,
            )  # fmt: skip
            bar = figure.colorbar(density, ax=panel, shrink=0.75, pad=0.02)
            bar.set_label("points per cell", fontsize=8)
        else:
            panel.scatter(
                target[inside], predicted[inside], s=12, alpha=0.6, linewidths=0,
                color=PALETTE[0], zorder=3,
            )  # fmt: skip
        panel.set(xlim=(low, high), ylim=(low, high), aspect="equal")
        ticks = MaxNLocator(5)
        panel.xaxis.set_major_locator(ticks)
        panel.yaxis.set_major_locator(MaxNLocator(5))
        unit = f" ({pretty_unit(quantity.unit)})" if quantity.unit else ""
        panel.set_xlabel(f"label{unit}")
        panel.set_ylabel(f"prediction{unit}")
        panel.set_title(_parity_title(name, quantity, len(target) - int(inside.sum())), loc="left")
        return png(figure)


def _parity_title(name: str, quantity: Quantity, outside: int) -> str:
    unit = pretty_unit(quantity.unit)
    text = f"{pretty_name(name)}\nMAE {quantity.mae:.3g} {unit}, R² {quantity.r2:.3f}"
    return f"{text}\n{outside} points outside the axes" if outside else text


def _span(target: np.ndarray, predicted: np.ndarray) -> tuple[float, float]:
    both = np.concatenate([target, predicted])
    if len(target) > DENSE:
        margin = (1 - SHOWN) / 2
        low, high = (float(value) for value in np.quantile(both, (margin, 1 - margin)))
    else:
        low, high = (float(both.min()), float(both.max())) if len(both) else (0.0, 1.0)
    room = 0.05 * (high - low) or 0.5
    return low - room, high + room


def _density_colours() -> str:
    return colormaps["cividis_r"].name


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    """Returns a figure with ``count`` panels in rows of two."""
    columns = min(count, 2)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(3.7 * columns, 2.6 * rows), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns)).ravel().tolist()
    for unused in axes[count:]:
        unused.set_axis_off()
    return figure, axes[:count]


def _validation_names(runs: Sequence[RunSummary]) -> list[str]:
    """Returns the error metrics worth a panel: per atom instead of the total energy."""
    names = [f"val/{label}_mae" for run in runs for label in run.labels]
    per_atom = [name.replace("energy_mae", "energy_per_atom_mae") for name in names]
    known = {key for run in runs for line in run.lines("val") for key in line}
    return [name for name in dict.fromkeys(per_atom) if name in known]


def _title(metric: str) -> str:
    label = metric.removeprefix("val/").removesuffix("_mae")
    return f"validation MAE of {pretty_name(label)}"


def _points(
    lines: Iterable[Mapping[str, object]], name: str, run: RunSummary
) -> list[tuple[float, float]]:
    epochs = float(run.settings["loop"]["epochs"])
    found = ((float(str(line["progress"])) * epochs, line[name]) for line in lines if name in line)
    return [(x, float(str(y))) for x, y in found if y is not None]


def _curve(
    panel: Axes,
    lines: Iterable[Mapping[str, object]],
    name: str,
    colour: str,
    label: str,
    run: RunSummary,
    **style: float | str,
) -> None:
    points = _points(lines, name, run)
    if points:
        x, y = zip(*points, strict=True)
        panel.plot(x, y, color=colour, label=label, markersize=3, **style)  # type: ignore[arg-type]


def _values(lines: Iterable[Mapping[str, object]], names: Sequence[str]) -> list[float]:
    return [float(str(line[n])) for line in lines for n in names if line.get(n) is not None]


def _label(panel: Axes, title: str, unit: str, values: Sequence[float]) -> None:
    """Titles a panel over epochs; its axis is logarithmic if the values span enough."""
    panel.set_xlabel("epoch")
    panel.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    panel.set_ylabel(pretty_unit(unit) or "dimensionless")
    panel.set_title(title, loc="left")
    finite = [value for value in values if math.isfinite(value)]
    if finite and min(finite) > 0 and max(finite) / min(finite) > 5:
        panel.set_yscale("log")
