"""What a user should know before training on a data set, found in its statistics."""

from __future__ import annotations

from collections.abc import Iterator

from epitaxy.data.manifest import Manifest
from epitaxy.data.statistics import Statistics
from epitaxy.data.summaries import OUTLIER_RULE, Summary
from epitaxy.report.drawing import pretty_name, pretty_unit
from epitaxy.report.tables import count, number

MANY = 0.05
"""Share of exact zeros, or of one other value, from which they are pointed out."""
FEW_NEIGHBORS = 5.0
"""Å. Atoms without a neighbour within this are pointed out."""


def notes_on(statistics: Statistics, manifest: Manifest) -> list[str]:
    """Returns sentences, the most consequential first; empty if nothing stands out."""
    return [
        *_left_out(manifest),
        *_leaks(statistics),
        *(note for name, found in statistics.labels.items() for note in _label(name, found)),
        *_isolated(statistics),
        *_vacuum(statistics),
        *_symmetry(statistics),
        *_sampled(statistics),
    ]


def percent(part: int, whole: int) -> str:
    """Returns a share in per cent, never rounded to 0 or 100 unless it is."""
    share = 100 * part / whole
    if 0 < share < 0.01:
        return "below 0.01 %"
    if 99.95 <= share < 100:
        return "over 99.9 %"
    return f"{share:.2g} %" if share < 10 else f"{share:.0f} %"


def quantity(value: float, unit: str) -> str:
    """Returns a number with its unit; a whole number without unit has no decimals."""
    if not unit and float(value).is_integer() and abs(value) < 1e9:
        return count(int(value))
    return f"{number(value)} {pretty_unit(unit)}".strip()


def _left_out(manifest: Manifest) -> Iterator[str]:
    if manifest.skipped.count:
        yield f"{count(manifest.skipped.count)} records of the source could not be used."
    for rule, taken in manifest.filtered.items():
        yield f"{count(taken)} records were left out by {rule}."


def _leaks(statistics: Statistics) -> Iterator[str]:
    formulas, groups = statistics.formulas, statistics.groups
    if not formulas.repeated:
        return
    name, times = formulas.largest[0]
    text = (
        f"{_plural(formulas.repeated, 'formula occurs', 'formulas occur')} more than once, most "
        f"often {name} ({count(times)} records)"
    )
    if groups.repeated:
        yield f"{text}: split by group, so that no group is in two splits."
    else:
        yield f"{text}, but every record is a group of its own: a split by group separates nothing."


def _label(name: str, summary: Summary) -> Iterator[str]:
    printed, unit = pretty_name(name), pretty_unit(summary.unit)
    if summary.missing:
        share = percent(summary.missing, summary.records)
        yield f"{printed} is missing in {count(summary.missing)} records ({share})."
    if summary.over != "records":
        return
    if summary.distinct == 1 and summary.count > 1:
        yield f"{printed} is {quantity(summary.mode, unit)} in every record."
    elif summary.mode_count >= max(MANY * summary.count, 3) and summary.distinct > 20:
        share = percent(summary.mode_count, summary.count)
        what = "exactly 0" if summary.mode == 0 else f"exactly {quantity(summary.mode, unit)}"
        yield f"{printed} is {what} in {count(summary.mode_count)} records ({share})."
    if summary.outliers is not None and name != "energy":  # a large cell has a large energy
        yield from _far(printed, summary, summary.outliers.below + summary.outliers.above)


def _far(printed: str, summary: Summary, outliers: int) -> Iterator[str]:
    if outliers:
        name, value = _furthest(summary)
        yield (
            f"{count(outliers)} of {count(summary.count)} values of {printed} "
            f"{'is' if outliers == 1 else 'are'} far out ({OUTLIER_RULE}), up to "
            f"{quantity(value, summary.unit)} in {name}."
        )


def _furthest(summary: Summary) -> tuple[str, float]:
    ends = (summary.lowest[0], summary.highest[0])
    furthest = max(ends, key=lambda end: abs(end.value - summary.median))
    return furthest.id, furthest.value


def _isolated(statistics: Statistics) -> Iterator[str]:
    for item in statistics.neighbors:
        if item.radius == FEW_NEIGHBORS and item.isolated:
            share = 100 * item.isolated
            yield (
                f"{share:.2g} % of the atoms have no neighbour within {item.radius:g} Å: a graph "
                "with that cutoff leaves them alone."
            )


def _vacuum(statistics: Statistics) -> Iterator[str]:
    volume = statistics.geometry.get("volume_per_atom")
    if volume is not None and volume.outliers is not None and volume.outliers.above:
        above = volume.outliers.above
        yield (
            f"{_plural(above, 'cell holds', 'cells hold')} more than "
            f"{quantity(volume.outliers.high, 'Å³')} per atom, up to "
            f"{quantity(volume.highest[0].value, 'Å³')} in {volume.highest[0].id}: loose packing "
            "or vacuum."
        )


def _symmetry(statistics: Statistics) -> Iterator[str]:
    unknown = statistics.categories.get("crystal_system", {}).get("unknown", 0)
    if unknown:
        yield f"{_plural(unknown, 'record has', 'records have')} no crystal system."


def _sampled(statistics: Statistics) -> Iterator[str]:
    if statistics.read < statistics.records:
        yield f"Volumes, distances, pressures and components are those of {statistics.reading}."


def _plural(number_of: int, one: str, many: str) -> str:
    return f"{count(number_of)} {one if number_of == 1 else many}"
