"""Leaves records out by stated rules, and counts what each rule took."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64

from epitaxy.data.id_lists import read_id_lines
from epitaxy.data.names import Names, find_rows
from epitaxy.data.split_rules import SAMPLE, Rows
from epitaxy.errors import ConfigError, PlanError, closest

LABEL_OF_LIMIT = {"max_force": "forces", "max_stress": "stress"}
"""Which label's largest absolute component each limit looks at (eV/Å and eV/Å³)."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Excluded:
    """What one rule took: how many records, and the first of their ids."""

    count: int
    ids: tuple[str, ...]


@dataclass(frozen=True)
class Selection:
    """Rows that passed every rule, and what was left out.

    Attributes:
        rows: Rows kept, in the order given.
        num_excluded: Records left out; one that breaks two rules counts once here.
        rules: Every rule that was applied, with what it took; one that took none is listed too.
    """

    rows: Rows
    num_excluded: int
    rules: Mapping[str, Excluded]

    def report(self) -> dict[str, Any]:
        """Returns the numbers as JSON-ready data."""
        return {
            "records": len(self.rows) + self.num_excluded,
            "kept": len(self.rows),
            "excluded": self.num_excluded,
            "rules": {
                name: {"excluded": taken.count, "ids": list(taken.ids)}
                for name, taken in self.rules.items()
            },
        }


def select_rows(
    ids: Names,
    rows: Rows,
    *,
    num_atoms: Int64[np.ndarray, " records"],
    largest: Mapping[str, Float64[np.ndarray, " records"]],
    heaviest: Int64[np.ndarray, " records"] | None = None,
    lost: Mapping[str, Bool[np.ndarray, " records"]] = MappingProxyType({}),
    max_atoms: int | None = None,
    max_atomic_number: int | None = None,
    max_force: float | None = None,
    max_stress: float | None = None,
    exclude: Sequence[str] = (),
) -> Selection:
    """Returns which of ``rows`` stay. A value at a limit stays, and so does a missing label.

    Args:
        ids: Ids of the whole data set.
        rows: Candidates.
        num_atoms: Atoms of every record of the data set.
        largest: Label to its largest absolute component in every record, NaN where missing.
        heaviest: Highest atomic number in every record; ``max_atomic_number`` needs it.
        lost: Further rules: name to which records of the data set it leaves out.
        max_atoms: Largest number of atoms.
        max_atomic_number: Highest atomic number.
        max_force: Largest absolute force component, eV/Å.
        max_stress: Largest absolute stress component, eV/Å³.
        exclude: Ids to leave out; see ``unknown_excludes`` for those that do not exist.

    Raises:
        ConfigError: If a limit is not positive or concerns a label that the data set lacks.
    """
    broken: dict[str, Bool[np.ndarray, " rows"]] = {name: mask[rows] for name, mask in lost.items()}
    if max_atoms is not None:
        broken[f"num_atoms > {_positive('max_atoms', max_atoms)}"] = num_atoms[rows] > max_atoms
    if max_atomic_number is not None:
        if heaviest is None:
            raise ConfigError("filter.max_atomic_number needs the highest atomic numbers")
        rule = f"atomic number > {_positive('max_atomic_number', max_atomic_number)}"
        broken[rule] = heaviest[rows] > max_atomic_number
    for name, limit in (("max_force", max_force), ("max_stress", max_stress)):
        if limit is None:
            continue
        label = LABEL_OF_LIMIT[name]
        if label not in largest:
            raise ConfigError(
                f"filter.{name} needs the label {label!r}, which the data set does not have; "
                f"{closest(label, largest)}"
            )
        broken[f"|{label}| > {_positive(name, limit):g}"] = largest[label][rows] > limit
    if exclude:
        broken["exclude list"] = np.isin(rows, find_rows(ids, exclude)[0])
    out = np.zeros(len(rows), dtype=bool)
    for mask in broken.values():
        out |= mask
    rules = {name: _excluded(ids, rows[mask]) for name, mask in broken.items()}
    return Selection(rows[~out], int(out.sum()), rules)


def exclude_files(exclude: str | Sequence[str] | None) -> tuple[str, ...]:
    """Returns the files that ``filter.exclude`` names: one, a list, or several between commas."""
    if exclude is None:
        return ()
    if not isinstance(exclude, str):
        return tuple(exclude)
    if Path(exclude).exists():  # the name of a file may hold a comma
        return (exclude,)
    return tuple(part.strip() for part in exclude.split(",") if part.strip())


def read_exclude_list(file: Path) -> list[str]:
    """Returns the ids of a text file, one per line; empty lines do not count.

    Raises:
        ConfigError: If the file cannot be read.
    """
    return read_id_lines(file, f"exclude list {file}")


def unknown_excludes(ids: Names, listed: Sequence[str]) -> list[str]:
    """Returns those of ``listed`` that the data set lacks; a warning counts them.

    A list made for another version of the data, or for several data sets together, names such
    ids. One that names nothing else was made for other data altogether.

    Raises:
        PlanError: If the data set has none of them.
    """
    found, unknown = find_rows(ids, listed)
    if unknown and not len(found):
        own = ids.at(np.arange(min(SAMPLE, len(ids)))).tolist()
        raise PlanError(
            f"the exclude lists name {len(unknown)} ids, such as {unknown[:SAMPLE]}, and the data "
            f"set has none of them (its own are like {own}); were they made for another data set?"
        )
    if unknown:
        logger.warning(
            "the exclude lists name %d ids that the data set does not have, such as %s; the other "
            "%d are left out",
            len(unknown), unknown[:SAMPLE], len(found),
        )  # fmt: skip
    return unknown


def require_records(rows: Rows, split: str, selection: Selection) -> None:
    """Refuses an empty split.

    Raises:
        PlanError: If ``rows`` is empty; the message tells which rule took how many.
    """
    if len(rows):
        return
    rules = sorted(selection.rules.items(), key=lambda item: item[1].count, reverse=True)
    taken = ", ".join(f"{name}: {taken.count}" for name, taken in rules) or "no rule applied"
    raise PlanError(
        f"no record is left in the {split} split ({selection.num_excluded} excluded; {taken}); "
        "relax filter.* or change split.*"
    )


def _positive(name: str, limit: float) -> float:
    if not limit > 0:
        raise ConfigError(f"filter.{name} must be positive, got {limit}")
    return limit


def _excluded(ids: Names, rows: Rows) -> Excluded:
    return Excluded(len(rows), tuple(ids.at(rows[:SAMPLE]).tolist()))
