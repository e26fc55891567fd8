"""Deals records to train, val and test: a pure function of ids, groups and a seed."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from epitaxy.errors import ConfigError, PlanError, closest

SPLITS = ("train", "val", "test")
SAMPLE = 5
"""Ids quoted in a message; reports give the full count."""

logger = logging.getLogger(__name__)

Rows = Int64[np.ndarray, " records"]


def split_rows(
    ids: np.ndarray,
    groups: np.ndarray,
    *,
    by: str = "group",
    fractions: Sequence[float] = (0.8, 0.1, 0.1),
    sizes: Sequence[int] | None = None,
    seed: int = 0,
    file: str | Path | None = None,
) -> dict[str, Rows]:
    """Returns the rows of ``train``, ``val`` and ``test``, each in ascending order.

    Groups (or single records) are ordered by a keyed hash of their name, so the order of the data
    set does not matter. Walking that order, a split takes whole groups until it holds its number
    of records; then the next split starts. By ``record`` the numbers are exact; by ``group`` a
    split may exceed its number by part of one group, and the last one gets what remains.

    Args:
        ids: Record ids, (records,).
        groups: Material of each record, (records,).
        by: ``group`` keeps a material in one split; ``record`` does not.
        fractions: Shares of train, val, test; what they leave over is in no split.
        sizes: Numbers of records instead of fractions.
        seed: Key of the hash.
        file: JSON ``{"train": [ids], "val": […], "test": […]}`` that replaces all of the above.

    Raises:
        ConfigError: If a setting is wrong.
        PlanError: If a split that was asked for ends empty, or a file names unknown ids or one id
            twice.
    """
    if file is not None:
        return _split_by_file(ids, groups, Path(file))
    if by not in ("group", "record"):
        raise ConfigError(f"split.by is {by!r}; {closest(by, ('group', 'record'))}")
    wanted = _wanted_sizes(len(ids), fractions, sizes)
    units, unit_of_row, counts = np.unique(
        groups if by == "group" else ids, return_inverse=True, return_counts=True
    )
    order = _hashed_order(units, seed)
    split_of_unit = np.empty(len(units), dtype=np.int64)
    split_of_unit[order] = _fill(counts[order], wanted)
    split_of_row = split_of_unit[unit_of_row]
    rows = {name: np.flatnonzero(split_of_row == index) for index, name in enumerate(SPLITS)}
    for name, share in zip(SPLITS, fractions if sizes is None else sizes, strict=True):
        if share and not len(rows[name]):
            raise PlanError(
                f"the {name} split was to get {share:g} {'of the' if sizes is None else ''} records"
                f" and is empty: the data set has {len(ids)} records in {len(units)} {by}s, too "
                "few for these splits; change split.fractions or split.sizes"
            )
    return rows


def read_id_lists(file: Path) -> dict[str, list[str]]:
    """Returns the id lists of a split file.

    Raises:
        ConfigError: If the file cannot be read or is no JSON object of id lists.
    """
    try:
        lists = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"split file {file} cannot be read as JSON: {error}") from error
    if not isinstance(lists, Mapping):
        raise ConfigError(f"split file {file} must hold an object of id lists, got {type(lists)}")
    for name, listed in lists.items():
        if name not in SPLITS:
            raise ConfigError(f"split file {file} has a key {name!r}; {closest(name, SPLITS)}")
        if not isinstance(listed, list) or not all(isinstance(item, str) for item in listed):
            raise ConfigError(f"split file {file}: {name!r} must be a list of record ids (strings)")
    return {name: list(lists.get(name, [])) for name in SPLITS}


def rows_of_ids(ids: np.ndarray, wanted: Sequence[str], where: str) -> Rows:
    """Returns the rows of ``wanted``, in its order.

    Raises:
        PlanError: If an id is not in the data set; ``where`` says who named it.
    """
    row_of = {str(name): row for row, name in enumerate(ids)}
    unknown = [name for name in wanted if name not in row_of]
    if unknown:
        raise PlanError(
            f"{where} names {len(unknown)} ids that the data set does not have, such as "
            f"{unknown[:SAMPLE]}; was it made for another data set?"
        )
    return np.array([row_of[name] for name in wanted], dtype=np.int64)


def _wanted_sizes(
    num_records: int, fractions: Sequence[float], sizes: Sequence[int] | None
) -> list[int]:
    name, values = ("fractions", fractions) if sizes is None else ("sizes", sizes)
    if len(values) != len(SPLITS) or any(not value >= 0 for value in values):
        raise ConfigError(
            f"split.{name} needs three non-negative numbers (train, val, test), got {list(values)}"
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


def _fill(counts: np.ndarray, wanted: Sequence[int]) -> Int64[np.ndarray, " units"]:
    """Returns the split of each unit, in the order given; ``len(wanted)`` for the rest."""
    records_up_to = np.cumsum(counts)
    split_of_unit = np.full(len(counts), len(wanted))
    start = 0
    for index, size in enumerate(wanted):
        if size:
            taken = int(records_up_to[start - 1]) if start else 0
            stop = int(np.searchsorted(records_up_to, taken + size)) + 1
            split_of_unit[start:stop] = index
            start = min(stop, len(counts))
    return split_of_unit


def _hashed_order(units: np.ndarray, seed: int) -> Int64[np.ndarray, " units"]:
    key = str(seed).encode()
    hashes = [
        hashlib.blake2b(str(unit).encode(), key=key, digest_size=8).digest() for unit in units
    ]
    # Units come sorted by name, so equal hashes still have one order.
    return np.argsort(np.frombuffer(b"".join(hashes), dtype=">u8"), kind="stable")


def _split_by_file(ids: np.ndarray, groups: np.ndarray, file: Path) -> dict[str, Rows]:
    lists = read_id_lists(file)
    seen: dict[str, str] = {}
    for name, listed in lists.items():
        for item in listed:
            if item in seen:
                raise PlanError(
                    f"split file {file} lists {item!r} in {seen[item]} and again in {name}; "
                    "every record belongs to one split at most"
                )
            seen[item] = name
    where = f"split file {file}"
    rows = {name: np.sort(rows_of_ids(ids, lists[name], where)) for name in SPLITS}
    shared = leaking_groups(groups, rows)
    if shared:
        logger.warning(
            "%s puts %d groups into more than one split, such as %s",
            where, len(shared), shared[:SAMPLE],
        )  # fmt: skip
    return rows


def leaking_groups(groups: np.ndarray, rows: Mapping[str, Rows]) -> list[str]:
    """Returns the groups that occur in more than one split, sorted."""
    per_split = [np.unique(groups[part]) for part in rows.values()]
    names, counts = np.unique(np.concatenate(per_split), return_counts=True)
    return [str(name) for name in names[counts > 1]]
