"""Rules that deal records to train, val and test: pure functions of columns and a seed.

A rule names the *unit* of each record, such as its formula; records of one unit are never parted.
No rule reads a record: ids, groups, compositions and scalar labels stand in the sidecars.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from numbers import Real
from typing import Protocol

import numpy as np
from jaxtyping import Bool, Float64, Int8, Int64

from epitaxy.data.names import Names, find_rows
from epitaxy.data.sidecars import keys_of
from epitaxy.errors import ConfigError, PlanError, closest
from epitaxy.graph.labels import LabelTable
from epitaxy.graph.symbols import SYMBOLS

SPLITS = ("train", "val", "test")
RULES = ("group", "record", "formula", "chemical_system", "structure", "time")
KEYED_RULES = ("formula", "chemical_system", "structure")
"""Rules whose units the caller may give instead of having them read from compositions."""

SAMPLE = 5
"""Ids quoted in a message; reports give the full count."""

_BLOCK = 65_536
_ALPHABETICAL = np.argsort(SYMBOLS)
_SORTED_SYMBOLS = [SYMBOLS[number] for number in _ALPHABETICAL]

Rows = Int64[np.ndarray, " records"]


class Columns(Protocol):
    """What a rule may look at; a ``Dataset`` has it."""

    @property
    def ids(self) -> np.ndarray:
        """Record ids, (records,) of str."""
        ...

    @property
    def groups(self) -> np.ndarray:
        """Material of each record, (records,) of str."""
        ...

    @property
    def id_names(self) -> Names:
        """Record ids, not decoded."""
        ...

    @property
    def group_names(self) -> Names:
        """Material of each record, not decoded."""
        ...

    def label_table(self, rows: np.ndarray) -> LabelTable:
        """Returns compositions and label columns of ``rows``."""
        ...


def rows_by_rule(
    data: Columns,
    *,
    by: str = "group",
    fractions: Sequence[float] = (0.8, 0.1, 0.1),
    sizes: Sequence[int] | None = None,
    seed: int = 0,
    time: str | None = None,
    keys: np.ndarray | None = None,
) -> dict[str, Rows]:
    """Returns the rows of ``train``, ``val`` and ``test``, each in ascending order.

    Units are ordered by a keyed hash of their name (``sidecars.key_bytes``), so the order of the
    data set does not matter; by ``time`` they are ordered by value, earliest first. Walking that
    order, a split takes whole units until it holds its number of records; then the next split
    starts. By ``record`` the numbers are exact; by any other rule a split may exceed its number by
    part of one unit, and the last one gets what remains. What fractions or sizes leave over is the
    end of the order: by ``time``, the latest records.

    Args:
        data: Columns of the data set.
        by: One of ``RULES``; see ``units_of``.
        fractions: Shares of train, val, test; what they leave over is in no split.
        sizes: Numbers of records instead of fractions.
        seed: Key of the hash; by ``time`` it changes nothing.
        time: Scalar label that dates the records, by ``time``.
        keys: Unit of each record, instead of what the rule would find.

    Raises:
        ConfigError: If a setting is wrong.
        PlanError: If a split that was asked for ends empty, or a record has no date.
    """
    if by in ("group", "record") and time is None and keys is None:
        column = data.group_names if by == "group" else data.id_names
        ranks: np.ndarray = column.keys(seed)  # the hash itself is the order of the units
    else:
        units = units_of(data, by, time=time, keys=keys)
        ranks = units if by == "time" else keys_of(units.tolist(), seed)
    wanted = _wanted_sizes(len(ranks), fractions, sizes)
    split_of_row = _deal(ranks, wanted)
    rows = {name: np.flatnonzero(split_of_row == index) for index, name in enumerate(SPLITS)}
    for name, share in zip(SPLITS, fractions if sizes is None else sizes, strict=True):
        if share and not len(rows[name]):
            raise PlanError(
                f"the {name} split was to get {share:g} {'of the' if sizes is None else ''} records"
                f" and is empty: the data set has {len(ranks)} records in "
                f"{len(np.unique(ranks))} "
                f"{_PLURALS[by]}, too few for these splits; change split.fractions or split.sizes"
            )
    return rows


_PLURALS = {
    "group": "groups",
    "record": "records",
    "formula": "formulas",
    "chemical_system": "chemical systems",
    "structure": "clusters of duplicates",
    "time": "dates",
}


def units_of(
    data: Columns, by: str, *, time: str | None = None, keys: np.ndarray | None = None
) -> np.ndarray:
    """Returns the unit of each record, (records,) of str; by ``time`` of float.

    ``record`` is the id itself, ``group`` the material that the recipe named, ``formula`` the
    reduced formula (counts over their greatest common divisor), ``chemical_system`` the set of
    elements, ``structure`` the cluster of duplicates that ``keys`` gives, ``time`` the value of
    that label.

    Raises:
        ConfigError: If the rule is unknown, or lacks or does not take ``time`` or ``keys``.
        PlanError: If a record has no date.
    """
    if by not in RULES:
        raise ConfigError(f"split.by is {by!r}; {closest(by, RULES)}")
    if time is not None and by != "time":
        raise ConfigError(f"split.time={time} dates records for split.by=time, not by={by}")
    if keys is not None:
        return _given(keys, len(data.ids), by)
    if by == "structure":
        raise ConfigError(
            "split.by=structure needs to know which records are duplicates of each other, and no "
            "clusters were given. Store such a split once with the data set and use it by "
            "split.name, or use split.by=formula, which keeps every duplicate together"
        )
    if by == "time":
        return _dates(data, time)
    if by in ("group", "record"):
        return data.groups if by == "group" else data.ids
    named = _formulas if by == "formula" else _chemical_systems
    texts = [text for block in compositions(data) for text in named(block)]
    return np.array(texts, dtype=np.str_)


def cluster_keys(ids: np.ndarray, clusters: Iterable[np.ndarray]) -> np.ndarray:
    """Returns the keys of ``by="structure"``, (records,) of str.

    Args:
        ids: Record ids, (records,).
        clusters: Rows of records that are duplicates of each other; a row is in one at most.

    Returns:
        For each record the first id, in alphabetical order, of its cluster: the same whatever the
        order of the data set. A record without duplicates is a cluster of its own.
    """
    keys = np.array(ids, dtype=np.str_)
    for rows in clusters:
        keys[rows] = min(ids[rows].tolist())
    return keys


def compositions(data: Columns) -> Iterator[Int64[np.ndarray, "block 119"]]:
    """Yields the element counts of all records, a block of rows at a time."""
    for start in range(0, len(data.ids), _BLOCK):
        yield data.label_table(np.arange(start, min(start + _BLOCK, len(data.ids)))).composition


def scalar_column(data: Columns, label: str, setting: str) -> Float64[np.ndarray, " records"]:
    """Returns scalar ``label`` of all records, NaN where missing.

    Raises:
        ConfigError: If there is no such scalar label; ``setting`` says who asked for it.
    """
    known = data.label_table(np.arange(0)).scalars
    if label not in known:
        raise ConfigError(
            f"{setting}={label} is no scalar label of the data set; {closest(label, known)}"
        )
    starts = range(0, len(data.ids), _BLOCK)
    blocks = [np.arange(start, min(start + _BLOCK, len(data.ids))) for start in starts]
    return np.concatenate([data.label_table(rows).scalars[label] for rows in blocks])


def take_units(units: np.ndarray, size: int, seed: int) -> Bool[np.ndarray, " records"]:
    """Returns which records to take: whole units in hashed order until there are ``size``."""
    return _deal(keys_of(units.tolist(), seed), [size]) == 0


def rows_of_ids(ids: Names, wanted: Sequence[str], where: str, remedy: str = "") -> Rows:
    """Returns the rows of ``wanted``, in its order.

    Raises:
        PlanError: If an id is not in the data set; ``where`` says who named it, ``remedy`` what
            else can be done.
    """
    rows, unknown = find_rows(ids, wanted)
    if unknown:
        raise PlanError(
            f"{where} names {len(unknown)} ids that the data set does not have, such as "
            f"{unknown[:SAMPLE]}; was it made for another data set?{remedy}"
        )
    return rows


def leaking_groups(groups: Names, rows: Mapping[str, Rows]) -> list[str]:
    """Returns the groups that occur in more than one split, sorted."""
    keys = groups.keys()
    per_split = [np.unique(keys[part]) for part in rows.values()]
    found, counts = np.unique(np.concatenate(per_split), return_counts=True)
    if not (counts > 1).any():
        return []
    rows_there = np.flatnonzero(np.isin(keys, found[counts > 1]))
    return sorted(set(groups.at(rows_there).tolist()))


def _given(keys: np.ndarray, num_records: int, by: str) -> np.ndarray:
    if by not in KEYED_RULES:
        raise ConfigError(f"split.by={by} takes no keys; {', '.join(KEYED_RULES)} do")
    if np.shape(keys) != (num_records,):
        raise ConfigError(
            f"split.by={by} needs a key for each of {num_records} records, got an array of shape "
            f"{np.shape(keys)}"
        )
    return np.asarray(keys, dtype=np.str_)


def _dates(data: Columns, time: str | None) -> Float64[np.ndarray, " records"]:
    if time is None:
        known = ", ".join(sorted(data.label_table(np.arange(0)).scalars)) or "none"
        raise ConfigError(
            "split.by=time needs split.time, the label that dates a record, such as year; "
            f"scalar labels of the data set: {known}"
        )
    values = scalar_column(data, time, "split.time")
    missing = data.ids[np.isnan(values)]
    if len(missing):
        raise PlanError(
            f"split.by=time: {len(missing)} of {len(values)} records have no {time!r}, such as "
            f"{missing[:SAMPLE].tolist()}; fill the column or leave these records out when the "
            "data set is prepared, or split by another rule"
        )
    return values


def _formulas(counts: Int64[np.ndarray, "block 119"]) -> list[str]:
    divisors = np.maximum(np.gcd.reduce(counts, axis=1, keepdims=True), 1)
    return _joined(
        counts // divisors, "", lambda symbol, count: f"{symbol}{count}" if count > 1 else symbol
    )


def _chemical_systems(counts: Int64[np.ndarray, "block 119"]) -> list[str]:
    return _joined(counts, "-", lambda symbol, _: symbol)


def _joined(
    counts: Int64[np.ndarray, "block 119"], between: str, name: Callable[[str, int], str]
) -> list[str]:
    """Returns the names of each record's elements in alphabetical order, put together."""
    ordered = counts[:, _ALPHABETICAL]
    rows, places = np.nonzero(ordered)
    symbols = [_SORTED_SYMBOLS[place] for place in places.tolist()]
    parts = list(map(name, symbols, ordered[rows, places].tolist()))
    bounds = np.searchsorted(rows, np.arange(len(counts) + 1)).tolist()
    return [between.join(parts[start:stop]) for start, stop in pairwise(bounds)]


def _wanted_sizes(
    num_records: int, fractions: Sequence[float], sizes: Sequence[int] | None
) -> list[int]:
    name, values = ("fractions", fractions) if sizes is None else ("sizes", sizes)
    if not _are_amounts(values):
        raise ConfigError(
            f"split.{name} needs three non-negative numbers (train, val, test), got {values!r}"
        )
    if sizes is None:
        if sum(fractions) > 1 + 1e-9:
            raise ConfigError(f"split.fractions add up to {sum(fractions):g}, more than 1")
        # Rounded after summing, so that fractions of 1 in total leave no record over.
        bounds = [round(num_records * sum(fractions[:index])) for index in range(4)]
        return [high - low for low, high in pairwise(bounds)]
    if sum(sizes) > num_records:
        raise PlanError(
            f"split.sizes ask for {sum(sizes)} records, the data set has {num_records}; "
            "lower them or use split.fractions"
        )
    return [int(size) for size in sizes]


def _are_amounts(values: object) -> bool:
    return (
        isinstance(values, Sequence)
        and len(values) == len(SPLITS)
        and all(isinstance(value, Real) and float(value) >= 0 for value in values)
    )


def _deal(ranks: np.ndarray, wanted: Sequence[int]) -> Int8[np.ndarray, " records"]:
    """Returns the split of each record; ``len(wanted)`` for the rest.

    Records of equal rank are one unit; units are taken whole, in the order of their ranks. Finding
    where a split ends takes no sort: it is the rank of the record that makes it full.
    """
    split_of_row = np.full(len(ranks), len(wanted), np.int8)
    taken = 0
    for index, size in enumerate(wanted):
        if size and taken < len(ranks):
            last = min(taken + size, len(ranks)) - 1
            inside = ranks <= np.partition(ranks, last)[last]
            split_of_row[inside & (split_of_row == len(wanted))] = index
            taken = int(inside.sum())
    return split_of_row
