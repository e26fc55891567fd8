"""Robust description of a column of numbers: location, spread, extremes and a histogram."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
EXTREMES = 5
"""Records named on each side."""
OUTLIER_SPREADS = 10.0
NORMAL_MAD = 1.4826
"""Standard deviation of a normal distribution, in units of its median absolute deviation."""
OUTLIER_RULE = f"|x − median| > {OUTLIER_SPREADS:g} · {NORMAL_MAD} MAD"

BINS = (12, 72)
"""Fewest and most bins aimed at; between them 2 √n of n values."""
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True)
class Histogram:
    """Counts between round edges; every bin holds its lower edge, the last one both.

    Attributes:
        edges: Multiples of one round width.
        counts: Values in each bin, one fewer than edges.
        below: Values below the first edge.
        above: Values above the last edge.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    below: int
    above: int


@dataclass(frozen=True)
class Extreme:
    """A record and its value."""

    id: str
    value: float


@dataclass(frozen=True)
class Outliers:
    """Values far from the median, by ``OUTLIER_RULE``.

    Attributes:
        low: Values below this are outliers.
        high: Values above this are outliers.
        below: How many are.
        above: How many are.
    """

    low: float
    high: float
    below: int
    above: int


@dataclass(frozen=True)
class Summary:
    """What a column of numbers looks like.

    Attributes:
        unit: Unit of all values here.
        over: What a value is one of: ``records``, or ``components`` of a tensor or per-atom label.
        records: Records that were looked at.
        missing: Records among them without a value.
        count: Values.
        mean: Their mean.
        std: Their standard deviation about the mean (divided by their number).
        median: Half of the values are smaller.
        mad: Median of |x − median|, not scaled.
        quantiles: Share (0, 0.01, … 1) to value, linear between values.
        zeros: Values that are exactly zero.
        distinct: Number of different values.
        mode: Value that occurs most often; the smallest of several.
        mode_count: How often it occurs.
        outliers: Values far from the median; none where the MAD is zero, which measures no spread.
        lowest: Records with the smallest values, smallest first; of components, one a record.
        highest: Records with the largest values, largest first.
        histogram: Counts over the bulk of the values.
    """

    unit: str
    over: str
    records: int
    missing: int
    count: int
    mean: float
    std: float
    median: float
    mad: float
    quantiles: Mapping[str, float]
    zeros: int
    distinct: int
    mode: float
    mode_count: int
    outliers: Outliers | None
    lowest: tuple[Extreme, ...]
    highest: tuple[Extreme, ...]
    histogram: Histogram


def summarise(
    values: Float64[np.ndarray, " records"], ids: np.ndarray, unit: str
) -> Summary | None:
    """Returns the summary of one number per record, NaN where missing; none without any number."""
    present = ~np.isnan(values)
    if not present.any():
        return None
    found = np.asarray(values[present], dtype=np.float64)
    return _summary(found, ids[present], found, found, unit, "records", len(values))


def summarise_components(
    blocks: Sequence[np.ndarray], ids: np.ndarray, unit: str, records: int
) -> Summary | None:
    """Returns the summary of all components of a label; none without any.

    Args:
        blocks: The values of each record that has the label, of any shape.
        ids: Ids of these records.
        unit: Unit of the values.
        records: Records that were looked at, those without the label included.
    """
    if not len(blocks):
        return None
    low = np.array([block.min() for block in blocks], dtype=np.float64)
    high = np.array([block.max() for block in blocks], dtype=np.float64)
    values = np.concatenate([block.reshape(-1) for block in blocks])
    return _summary(values, ids, low, high, unit, "components", records)


def histogram(values: np.ndarray, share: float = 0.99) -> Histogram:
    """Returns counts over at least the middle ``share`` of the values, with round edges.

    Whole numbers that span few values get bins around each of them. Edges depend on the values
    only through the ends of the range, rounded outwards, so a few more records do not move them.
    """
    margin = (1 - share) / 2
    low, high = (float(value) for value in np.quantile(values, (margin, 1 - margin)))
    least, most = float(values.min()), float(values.max())
    room = 0.1 * (high - low)
    # An end that is near anyway is shown.
    low = least if least >= low - room else low
    high = most if most <= high + room else high
    whole = bool((values == np.rint(values)).all())
    narrow = high - low <= 1e-9 * max(abs(low), abs(high))
    bins = min(max(2 * math.sqrt(len(values)), BINS[0]), BINS[1])
    width = _round_width(0.0 if narrow else (high - low) / bins, low, whole)
    edges = _edges(low, high, width, 0.5 if whole else 0.0)
    counts, _ = np.histogram(values, edges)
    below, above = int((values < edges[0]).sum()), int((values > edges[-1]).sum())
    return Histogram(tuple(edges), tuple(counts.tolist()), below, above)


def _edges(low: float, high: float, width: float, shift: float) -> list[float]:
    """Returns multiples of ``width``, moved down by ``shift`` widths, from ``low`` to ``high``."""
    first, last = math.floor(low / width + shift), math.floor(high / width + shift) + 1
    edges = [float(f"{(place - shift) * width:.12g}") for place in range(first - 1, last + 2)]
    while edges[1] <= low:
        del edges[0]
    while len(edges) > 2 and edges[-2] >= high:
        del edges[-1]
    return edges


def _summary(
    values: np.ndarray,
    ids: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    unit: str,
    over: str,
    records: int,
) -> Summary:
    wide = values.astype(np.float64)
    median = float(np.median(wide))
    mad = float(np.median(np.abs(wide - median)))
    different, counts = np.unique(values, return_counts=True)
    commonest = int(counts.argmax())
    at = np.quantile(wide, QUANTILES).tolist()
    # A power of two, which rounds nothing: squares of the largest numbers would overflow.
    scale = 2.0 ** float(np.frexp(np.abs(wide).max() or 1.0)[1] - 1)
    return Summary(
        unit=unit,
        over=over,
        records=records,
        missing=records - len(ids),
        count=len(values),
        mean=scale * float((wide / scale).mean()),
        std=scale * float((wide / scale).std()),
        median=median,
        mad=mad,
        quantiles={f"{share:g}": value for share, value in zip(QUANTILES, at, strict=True)},
        zeros=int((values == 0).sum()),
        distinct=len(different),
        mode=float(different[commonest]),
        mode_count=int(counts[commonest]),
        outliers=_outliers(wide, median, mad),
        lowest=_extremes(low, ids, np.argsort(low, kind="stable")),
        highest=_extremes(high, ids, np.argsort(-high, kind="stable")),
        histogram=histogram(wide, 0.9995 if over == "components" else 0.99),
    )


def _outliers(values: np.ndarray, median: float, mad: float) -> Outliers | None:
    if mad == 0:
        return None
    reach = OUTLIER_SPREADS * NORMAL_MAD * mad
    low, high = median - reach, median + reach
    return Outliers(low, high, int((values < low).sum()), int((values > high).sum()))


def _extremes(values: np.ndarray, ids: np.ndarray, order: np.ndarray) -> tuple[Extreme, ...]:
    return tuple(Extreme(str(ids[row]), float(values[row])) for row in order[:EXTREMES])


def _round_width(width: float, low: float, whole: bool) -> float:
    """Returns the next 1, 2, 2.5 or 5 times a power of ten; 1 at least for whole numbers."""
    if width == 0:
        width = max(abs(low) * 1e-3, 1e-3)
    power = 10.0 ** math.floor(math.log10(width))
    rounded = next(step * power for step in _STEPS if step * power >= width * (1 - 1e-9))
    return max(1.0, math.ceil(rounded)) if whole else rounded
