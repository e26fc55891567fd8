"""What all pictures share: colours, fonts, units in print, and the way to PNG."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito (2008), without yellow, which is faint on white."""

STYLE: dict[Any, Any] = {
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "savefig.dpi": 170,
}
"""Settings of matplotlib for a picture in a page."""

_PRETTY = {"eV/Å^3": "eV/Å³"}


def pretty_unit(unit: str) -> str:
    """Returns ``unit`` as it is printed."""
    return _PRETTY.get(unit, unit)


def pretty_name(name: str) -> str:
    """Returns a label or metric name as it is printed."""
    return name.replace("_", " ")


def plain(text: str) -> str:
    """Returns ``text`` as matplotlib is to get it: a dollar sign starts no formula."""
    return text.replace("$", r"\$")


def ink_on(face: Any) -> str:
    """Returns black or white, whichever reads better on ``face`` (relative luminance, WCAG)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(face)]
    return "white" if float(np.dot(linear, (0.2126, 0.7152, 0.0722))) < 0.2 else "#10202e"


def png(figure: Figure) -> bytes:
    """Returns ``figure`` as a PNG file, the same bytes for the same picture."""
    FigureCanvasAgg(figure)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()
