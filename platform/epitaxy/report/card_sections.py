"""The sections of a data card that describe its content, each from statistics to HTML."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from epitaxy.data.dataset import Dataset
from epitaxy.data.magpie import MAGPIE
from epitaxy.data.split_files import list_splits, load_split
from epitaxy.data.split_rules import SPLITS, leaking_groups
from epitaxy.data.statistics import Statistics, Tally
from epitaxy.data.summaries import OUTLIER_RULE, Extreme, Summary
from epitaxy.data.symmetry import CRYSTAL_SYSTEM, CRYSTAL_SYSTEMS, SPACE_GROUP
from epitaxy.errors import EpitaxyError
from epitaxy.graph.record import AMOUNT, CrystalRecord, LabelField
from epitaxy.graph.symbols import reduced_formula
from epitaxy.report import card_plots as plots
from epitaxy.report.card_notes import percent, quantity
from epitaxy.report.drawing import pretty_name, pretty_unit
from epitaxy.report.tables import count, definitions, details, figure, number, paragraph, table

EXAMPLES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Quantiles of the number of atoms at which an example is shown."""
DRAWN_RADII = (5.0, 8.0)
"""Å. Neighbours within these are drawn."""

_TITLES = {
    "num_atoms": "atoms per cell",
    "volume_per_atom": "volume per atom",
    "shortest_distance": "shortest distance",
    "a": "cell length a",
    "b": "cell length b",
    "c": "cell length c",
    "alpha": "cell angle α",
    "beta": "cell angle β",
    "gamma": "cell angle γ",
}
_DRAWN = ("num_atoms", "volume_per_atom", "shortest_distance")
_SHARES = ("0", "0.01", "0.5", "0.99", "1")
_SPREAD = ("min", "1 %", "median", "99 %", "max")


def labels_section(dataset: Dataset, statistics: Statistics) -> str:
    """Returns what every label means and how its values are distributed."""
    fields = dataset.manifest.fields
    if not fields:
        return f"<section><h2>Labels</h2>{paragraph('This data set has no labels.')}</section>"
    meaning = [
        [field.name, pretty_unit(field.unit) or "–", _shape(field), field.scheme or "–"]
        for field in fields
    ]
    pictures = "".join(_picture(name, found) for name, found in statistics.labels.items())
    rule = (
        f"Outliers: {OUTLIER_RULE}, where MAD is the median of |x − median|; a dash where half of "
        "all values are equal. Quantities of atoms and tensors are described over their components."
    )
    if "pressure" in statistics.labels:
        rule += " Pressure is −tr σ/3: positive when the crystal is compressed."
    numbers = ""
    if statistics.labels:
        numbers = (
            _distributions(statistics.labels, pretty_name)
            + paragraph(rule, "soft")
            + f'<div class="figures grid">{pictures}</div>'
            + details("records at the ends", _extremes(statistics.labels, pretty_name))
        )
    header = ("label", "unit", "kind", "scheme")
    return f"<section><h2>Labels</h2>{table(header, meaning, kind='prose')}{numbers}</section>"


def elements_section(statistics: Statistics) -> str:
    """Returns which elements, formulas and groups there are."""
    counts = statistics.elements.records
    top = sorted(counts.items(), key=lambda item: -item[1])[:3]
    alternative = (
        f"Periodic table with the number of records of each of {len(counts)} elements; most often "
        + ", ".join(f"{symbol} ({records})" for symbol, records in top)
    )
    picture = figure(plots.periodic_table(counts), alternative, wide=True)
    absent = statistics.elements.absent
    facts = [
        ("absent up to Pu (94)", " ".join(absent["94"]) or "none"),
        ("formulas", _tally(statistics.formulas)),
        ("chemical systems", _tally(statistics.systems)),
        ("groups", _tally(statistics.groups)),
    ]
    rows = [
        [symbol, count(records), percent(records, statistics.records),
         count(statistics.elements.atoms[symbol])]
        for symbol, records in counts.items()
    ]  # fmt: skip
    return (
        "<section><h2>Composition</h2>"
        + f'<div class="scroll periodic">{picture}</div>'
        + definitions(facts)
        + details("every element", table(("element", "records", "share", "atoms"), rows))
        + "</section>"
    )


def structures_section(statistics: Statistics) -> str:
    """Returns sizes, volumes, distances, neighbours and symmetry; empty without structures."""
    geometry = statistics.geometry
    if not geometry:
        return ""
    pictures = [_picture(name, geometry[name], _title(name)) for name in _DRAWN if name in geometry]
    pictures.append(_neighbor_picture(statistics))
    systems = statistics.categories.get("crystal_system")
    if systems:
        shown = {name: records for name, records in systems.items() if name != "unknown" or records}
        alternative = "Records by crystal system: " + _listing(shown)
        pictures.append(figure(plots.categories(shown, "crystal systems"), alternative))
    groups = statistics.categories.get("space_group", {})
    facts = [
        ("periodic axes", _listing({_axes(key): n for key, n in statistics.periodicity.items()})),
        ("space groups", f"{len(groups.keys() - {'unknown'})} different" if groups else ""),
    ]
    return (
        "<section><h2>Structures</h2>"
        + definitions(facts)
        + _distributions(geometry, _title, outliers=False)
        + paragraph(f"Measured on {statistics.reading}; atoms per cell on all structures.", "soft")
        + f'<div class="figures grid">{"".join(pictures)}</div>'
        + _neighbor_table(statistics)
        + details("records at the ends", _extremes(geometry, _title))
        + "</section>"
    )


def splits_section(dataset: Dataset) -> str:
    """Returns the sizes of the splits that are stored with the data set, empty without any."""
    rows = [_split_row(dataset, name) for name in list_splits(dataset)]
    if not rows:
        return ""
    header = ("split", *SPLITS, "in none", "groups in two", "made by")
    return f"<section><h2>Stored splits</h2>{table(header, rows, kind='prose wide')}</section>"


def examples_section(dataset: Dataset) -> str:
    """Returns a few records from the smallest to the largest."""
    order = np.lexsort((dataset.ids, dataset.num_atoms))
    places = sorted({round(share * (len(order) - 1)) for share in EXAMPLES})
    records = [dataset.record(int(order[place])) for place in places]
    fields = [field for field in dataset.manifest.fields if field.name not in (AMOUNT, MAGPIE)]
    header = ("id", "formula", "atoms", "a, b, c (Å)", "α, β, γ (°)", "Å³ per atom",
              *(_heading(field) for field in fields))  # fmt: skip
    rows = [
        [record.id, _formula(record), *_cell(record), *(_value(record, field) for field in fields)]
        for record in records
    ]
    return (
        "<section><h2>Examples</h2>"
        + paragraph("From the smallest record to the largest, at quarters of the order.", "soft")
        + table(*_without_empty(header, rows), kind="examples")
        + "</section>"
    )


def _without_empty(
    header: Sequence[str], rows: Sequence[Sequence[str]]
) -> tuple[list[str], list[list[str]]]:
    """Returns a table without the columns that hold nothing but dashes."""
    kept = [place for place in range(len(header)) if any(row[place] != "–" for row in rows)]
    return [header[place] for place in kept], [[row[place] for place in kept] for row in rows]


def _picture(name: str, summary: Summary, title: str = "") -> str:
    """Returns the histogram of a quantity with its facts below."""
    title = title or pretty_name(name)
    over = summary.over == "components"
    facts = [f"{count(summary.count)} {'components' if over else 'values'}"]
    if summary.missing:
        facts.append(f"{count(summary.missing)} records without")
    if summary.zeros and title not in _TITLES.values():
        facts.append(f"{count(summary.zeros)} ({percent(summary.zeros, summary.count)}) exactly 0")
    found = summary.histogram
    if found.below or found.above:
        ends = [
            f"{count(outside)} {word}, to {quantity(summary.quantiles[share], summary.unit)}"
            for outside, word, share in ((found.below, "below", "0"), (found.above, "above", "1"))
            if outside
        ]
        facts.append(f"outside the axis: {' and '.join(ends)}")
    facts.append(f"dashed: median {quantity(summary.median, summary.unit)}")
    alternative = (
        f"Histogram of {title}: median {quantity(summary.median, summary.unit)}, from "
        f"{quantity(summary.quantiles['0'], '')} to {quantity(summary.quantiles['1'], '')}"
    )
    if over:  # forces and stresses: heavy tails about a peak at zero
        picture = plots.histogram(summary, f"{title}, components", zeros=False, log=True)
    else:
        picture = plots.histogram(summary, title)
    return figure(picture, alternative, "; ".join(facts))


def _distributions(
    summaries: Mapping[str, Summary], titled: Callable[[str], str], *, outliers: bool = True
) -> str:
    far = ("zeros", "outliers") if outliers else ()
    header = ("quantity", "unit", "values", "missing", *_SPREAD, "mean", "std", "MAD", *far)
    rows = []
    for name, found in summaries.items():
        row = [titled(name), pretty_unit(found.unit) or "–", count(found.count),
               count(found.missing), *(_short(found, found.quantiles[share]) for share in _SHARES),
               *(_short(found, value) for value in (found.mean, found.std, found.mad))]  # fmt: skip
        if outliers:
            rule = found.outliers
            row += [count(found.zeros), "–" if rule is None else count(rule.below + rule.above)]
        rows.append(row)
    return table(header, rows, kind="numbers")


def _short(summary: Summary, value: float) -> str:
    """Returns a number as it stands in a table; what rounding left over of zero is zero."""
    scale = max(abs(summary.quantiles["0"]), abs(summary.quantiles["1"]))
    if abs(value) <= 1e-9 * scale:
        return "0"
    return number(value) if summary.unit else quantity(value, "")


def _extremes(summaries: Mapping[str, Summary], titled: Callable[[str], str]) -> str:
    rows = [
        [f"{titled(name)} ({unit})" if (unit := pretty_unit(found.unit)) else titled(name),
         _named(found.lowest), _named(found.highest)]
        for name, found in summaries.items()
    ]  # fmt: skip
    return table(("quantity", "lowest", "highest"), rows, kind="prose wide")


def _named(extremes: tuple[Extreme, ...]) -> str:
    return "; ".join(f"{item.id}: {number(item.value)}" for item in extremes)


def _neighbor_picture(statistics: Statistics) -> str:
    drawn = [(n.radius, n.per_atom) for n in statistics.neighbors if n.radius in DRAWN_RADII]
    medians = ", ".join(f"{found.median:.3g} within {radius:g} Å" for radius, found in drawn)
    outside = sum(found.histogram.above + found.histogram.below for _, found in drawn)
    note = f"medians: {medians}" + (f"; {count(outside)} outside the axis" if outside else "")
    return figure(plots.neighbors(drawn), f"Histograms of neighbours per atom: {medians}", note)


def _neighbor_table(statistics: Statistics) -> str:
    rows = [
        [f"{item.radius:g} Å", number(item.mean),
         *(number(item.per_atom.quantiles[share]) for share in ("0", "0.5", "1")),
         "–" if item.isolated is None else f"{number(100 * item.isolated)} %", count(item.empty)]
        for item in statistics.neighbors
    ]  # fmt: skip
    header = ("neighbours within", "mean per atom", "min per cell", "median", "max",
              "atoms without any", "structures without any")  # fmt: skip
    caption = "Per cell: the average over its atoms."
    return table(header, rows, caption, kind="numbers")


def _split_row(dataset: Dataset, name: str) -> list[str]:
    try:
        stored = load_split(dataset, name)
    except EpitaxyError as error:
        return [name, "", "", "", "", "", f"cannot be used: {error}"]
    sizes = [len(stored.rows[part]) for part in SPLITS]
    leaking = len(leaking_groups(dataset.group_names, stored.rows))
    settings = ", ".join(f"{key} {value}" for key, value in stored.settings.items()) or "defaults"
    rest = len(dataset) - sum(sizes)
    return [name, *map(count, sizes), count(rest), count(leaking), settings]


def _shape(field: LabelField) -> str:
    shape = "×".join(map(str, field.shape))
    if field.name in (SPACE_GROUP, CRYSTAL_SYSTEM):
        return "category"
    if field.name == AMOUNT:
        return "number per element"
    if field.per_atom:
        return f"{shape} per atom" if shape else "number per atom"
    return shape or "number"


def _heading(field: LabelField) -> str:
    name = pretty_name(field.name)
    if field.per_atom or field.shape:
        name = f"largest |{name}|"
    return f"{name} ({pretty_unit(field.unit)})" if field.unit else name


def _value(record: CrystalRecord, field: LabelField) -> str:
    label = record.labels.get(field.name)
    if label is None:
        return "–"
    value = float(np.abs(label.value).max()) if label.value.ndim else float(label.value)
    if field.name == CRYSTAL_SYSTEM and value in range(len(CRYSTAL_SYSTEMS)):
        return CRYSTAL_SYSTEMS[int(value)]
    whole = value.is_integer() and abs(value) < 1e5
    return f"{value:.0f}".replace("-", "−") if whole else number(value, 4)


def _formula(record: CrystalRecord) -> str:
    numbers = record.numbers.tolist()
    if record.is_composition:
        amounts = record.labels[AMOUNT].value.reshape(-1).tolist()
        parts = {n: round(a, 6) for n, a in zip(numbers, amounts, strict=True)}
        return reduced_formula(parts)
    return reduced_formula({element: numbers.count(element) for element in set(numbers)})


def _cell(record: CrystalRecord) -> list[str]:
    """Returns atoms, lengths, angles and volume per atom; dashes where there is no such thing."""
    if record.is_composition:
        return ["composition", "–", "–", "–"]
    atoms = count(record.num_atoms)
    if not record.pbc.all():
        axes = "".join("T" if flag else "F" for flag in record.pbc.tolist())
        return [atoms, _axes(axes), "–", "–"]
    lengths = np.linalg.norm(record.cell, axis=1)
    units = record.cell / lengths[:, None]
    cosines = [float(units[(axis + 1) % 3] @ units[(axis + 2) % 3]) for axis in range(3)]
    angles = np.degrees(np.arccos(np.clip(cosines, -1, 1)))
    return [
        atoms,
        ", ".join(f"{length:.2f}" for length in lengths),
        ", ".join(f"{angle:.1f}".removesuffix(".0") for angle in angles),
        number(record.volume / record.num_atoms),
    ]


def _axes(key: str) -> str:
    names = [name for name, flag in zip("abc", key, strict=True) if flag == "T"]
    if len(names) == 3:
        return "periodic along all axes"
    return f"periodic along {' and '.join(names)}" if names else "not periodic"


def _tally(tally: Tally) -> str:
    text = f"{count(tally.distinct)} different"
    if not tally.repeated:
        return f"{text}, each in one record"
    largest = ", ".join(f"{name} {count(times)}" for name, times in tally.largest[:5] if times > 1)
    return f"{text}, {count(tally.repeated)} in more than one record: {largest}"


def _listing(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count(times)}" for name, times in counts.items())


def _title(name: str) -> str:
    return _TITLES.get(name, pretty_name(name))
