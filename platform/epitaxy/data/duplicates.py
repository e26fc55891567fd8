"""Which records hold the same structure, found without comparing every pair.

Only fingerprints of one reduced formula are compared, coordinate by coordinate and those that are
spread most widely first: nearly every pair of different structures ends at the first few. Copies
are compared once, and a search for clusters compares nothing with what is in the cluster already.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Float64, Int64
from numba import njit
from tqdm import tqdm

from epitaxy.data.codec import decode
from epitaxy.data.dataset import Dataset
from epitaxy.data.fingerprint import VERSION, Fingerprint, Fingerprints, Level, fingerprint
from epitaxy.data.fingerprint import tolerance as tolerance_of
from epitaxy.data.split_rules import cluster_keys

logger = logging.getLogger(__name__)

_STRIDE = 16
_READ_BLOCK = 256
_COLUMNS = ("ids", "formulas", "lengths", "values", "offsets")

Array = Any  # of numpy outside, of numba inside a kernel; docstrings give shapes

_jit = njit(cache=True, nogil=True)


@dataclass(frozen=True, eq=False)
class Matches:
    """Copies of one structure in a first set, and all that matches them in a second.

    Attributes:
        first: Rows in the first set, ascending; each matches every one of ``second``.
        second: Rows in the second set.
        distance: Of each of ``second``: Å for level ``same``, units of ℓ for ``similar``.
    """

    first: Int64[np.ndarray, " copies"]
    second: Int64[np.ndarray, " matches"]
    distance: Float64[np.ndarray, " matches"]


def find_duplicates(
    fingerprints: Fingerprints, *, level: Level = "same", tolerance: float | None = None
) -> list[Int64[np.ndarray, " members"]]:
    """Returns the clusters of two or more records with matching structures.

    Records are linked if they match, and clusters are what links connect: a chain of small steps,
    such as a slow relaxation, is one cluster although its ends may differ by more.

    Args:
        fingerprints: Of all records.
        level: ``same`` or ``similar``.
        tolerance: Instead of ``TOLERANCES[level]``.

    Returns:
        Rows of each cluster in ascending order; clusters in the order of their first rows.

    Raises:
        ConfigError: If there is no such level.
    """
    limit = tolerance_of(level, tolerance)
    union = Union(len(fingerprints))
    for rows in buckets(fingerprints.formulas).values():
        if len(rows) == 1:
            continue
        sizes = _sizes(fingerprints, rows)
        for size in np.unique(sizes).tolist():
            alike = rows[sizes == size]
            labels = np.zeros(len(alike), dtype=np.int64)
            if size:  # compositions: the formula is all there is
                points, copies = _distinct(fingerprints.points(alike, level))
                labels = _components(points[:, _widest_first(points)], limit)[copies]
            _, firsts, ranks = np.unique(labels, return_index=True, return_inverse=True)
            union.join(alike, alike[firsts[ranks]])
    return [rows for rows in union.clusters() if len(rows) > 1]


def structure_keys(
    dataset: Dataset, *, level: Level = "same", cache: str | Path | None = None
) -> np.ndarray:
    """Returns a name for the structure of each record, (records,) of str.

    Records with matching structures share it: it is the first of their ids in the alphabet. Splits
    by ``structure`` deal these names.

    Raises:
        ConfigError: If there is no such level.
        ShardError: If the data set is damaged.
    """
    fingerprints = load_fingerprints(dataset, cache=cache, progress=True)
    return cluster_keys(dataset.ids, find_duplicates(fingerprints, level=level))


def find_matches(
    first: Fingerprints,
    second: Fingerprints,
    *,
    level: Level = "same",
    tolerance: float | None = None,
) -> Iterator[Matches]:
    """Yields what matches between two sets; every row of the first set occurs once at most.

    Raises:
        ConfigError: If there is no such level.
    """
    limit = tolerance_of(level, tolerance)
    theirs = buckets(second.formulas)
    alone = first is second
    for formula, rows in buckets(first.formulas).items():
        others = theirs.get(formula)
        if others is None or (alone and len(rows) == 1):
            continue
        sizes, other_sizes = _sizes(first, rows), _sizes(second, others)
        for size in np.intersect1d(sizes, other_sizes).tolist():
            ours, fitting = rows[sizes == size], others[other_sizes == size]
            if size == 0:  # compositions: the formula is all there is
                yield Matches(ours, fitting, np.zeros(len(fitting)))
            else:
                yield from _matches(first, ours, second, fitting, level, limit)


def buckets(keys: np.ndarray) -> dict[str, Int64[np.ndarray, " members"]]:
    """Returns the rows of each distinct key, ascending."""
    if not len(keys):
        return {}
    order = np.argsort(keys, kind="stable")
    names, starts = np.unique(keys[order], return_index=True)
    parts = np.split(order, starts[1:])
    return {str(name): part for name, part in zip(names, parts, strict=True)}


class Union:
    """Disjoint sets of the numbers below ``size``; the smallest member names a set."""

    def __init__(self, size: int) -> None:
        self._parent = list(range(size))

    def find(self, item: int) -> int:
        """Returns the smallest member of the set of ``item``."""
        parent = self._parent
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    def join(self, first: Sequence[int] | np.ndarray, second: Sequence[int] | np.ndarray) -> None:
        """Unites the sets of ``first[k]`` and ``second[k]`` for every k."""
        for one, other in zip(np.asarray(first).tolist(), np.asarray(second).tolist(), strict=True):
            low, high = sorted((self.find(one), self.find(other)))
            self._parent[high] = low

    def clusters(self) -> list[Int64[np.ndarray, " members"]]:
        """Returns every set, members ascending, in the order of smallest members."""
        roots = np.array([self.find(item) for item in range(len(self._parent))], dtype=np.int64)
        if not len(roots):
            return []
        order = np.argsort(roots, kind="stable")
        _, starts = np.unique(roots[order], return_index=True)
        return np.split(order, starts[1:])


def _sizes(fingerprints: Fingerprints, rows: np.ndarray) -> np.ndarray:
    sizes: np.ndarray = fingerprints.offsets[rows + 1] - fingerprints.offsets[rows]
    return sizes


def _matches(
    first: Fingerprints,
    rows: np.ndarray,
    second: Fingerprints,
    others: np.ndarray,
    level: Level,
    limit: float,
) -> Iterator[Matches]:
    """Yields the matches among records of one formula."""
    points, copies = _distinct(first.points(rows, level))
    theirs, their_copies = _distinct(second.points(others, level))
    order = _widest_first(theirs)
    points, theirs = points[:, order], theirs[:, order]
    apart = np.empty(len(theirs), dtype=np.float32)
    for place, point in enumerate(points):
        _measure(point, theirs, limit, apart)
        distance = apart[their_copies]
        near = np.flatnonzero(distance <= limit)
        if len(near):
            yield Matches(rows[copies == place], others[near], distance[near].astype(np.float64))


def _distinct(points: np.ndarray) -> tuple[np.ndarray, Int64[np.ndarray, " points"]]:
    """Returns the different ``points``, and which of them each point is."""
    places: dict[bytes, int] = {}
    kept: list[int] = []
    copies = np.empty(len(points), dtype=np.int64)
    for row, point in enumerate(points):
        key = hashlib.blake2b(point.tobytes(), digest_size=16).digest()
        copies[row] = places.setdefault(key, len(places))
        if copies[row] == len(kept):
            kept.append(row)
    return points[kept], copies


def _widest_first(points: np.ndarray) -> Int64[np.ndarray, " entries"]:
    return np.argsort(-points.std(axis=0), kind="stable")


@_jit
def _measure(point: Array, others: Array, limit: float, apart: Array) -> None:
    """Writes the largest difference of any coordinate to each other point, or infinity.

    Infinity stands for anything above ``limit``.
    """
    for row in range(len(others)):
        other = others[row]
        largest = np.float32(0.0)
        start = 0
        while start < len(point) and largest <= limit:
            for k in range(start, min(start + _STRIDE, len(point))):
                largest = max(largest, abs(point[k] - other[k]))
            start += _STRIDE
        apart[row] = largest if largest <= limit else np.inf


@_jit
def _components(points: Array, limit: float) -> Array:
    """Returns a number for each point, equal for points that a chain of near ones connects."""
    labels = np.full(len(points), -1, np.int64)
    pending = np.arange(len(points))  # those that no cluster has yet come first
    number = len(points)
    queue = np.empty(len(points), np.int64)
    apart = np.empty(1, np.float32)
    while number:
        number -= 1
        seed = pending[number]
        labels[seed], queue[0] = seed, seed
        done, found = 0, 1
        while done < found:
            point = points[queue[done]]
            done += 1
            left = 0
            for k in range(number):
                row = pending[k]
                _measure(point, points[row : row + 1], limit, apart)
                if apart[0] <= limit:
                    labels[row], queue[found] = seed, row
                    found += 1
                else:
                    pending[left] = row
                    left += 1
            number = left
    return labels


def load_fingerprints(
    dataset: Dataset, *, cache: str | Path | None = None, progress: bool = False
) -> Fingerprints:
    """Returns the fingerprints of a data set in row order, from ``cache`` if they are there.

    About 4 ms per record of a hundred atoms and 0.5 ms per record of ten.

    Args:
        dataset: A prepared data set.
        cache: Folder of fingerprints by content of the data set and version of the fingerprint;
            what is not there yet is put there.
        progress: Whether to show a progress bar (on a terminal).

    Raises:
        RecordError: If a cell is so small that the neighbour search would not end.
        ShardError: If the data set is damaged.
    """
    path = None if cache is None else Path(cache) / f"{dataset.data_digest}-v{VERSION}.npz"
    known = None if path is None else _load(path)
    if known is not None:
        return _in_order(known, dataset)
    found: list[Fingerprint] = []
    with tqdm(total=len(dataset), unit=" fingerprints", disable=None if progress else True) as bar:
        for start in range(0, len(dataset), _READ_BLOCK):
            rows = np.arange(start, min(start + _READ_BLOCK, len(dataset)))
            found.extend(fingerprint(decode(blob)) for blob in dataset.read(rows))
            bar.update(len(rows))
    fingerprints = Fingerprints.collect(dataset.ids.tolist(), found)
    if path is not None:
        _save(path, fingerprints)
    return fingerprints


def _in_order(known: Fingerprints, dataset: Dataset) -> Fingerprints:
    """Returns ``known`` in the row order of ``dataset``, whose digest does not depend on it."""
    if np.array_equal(known.ids, dataset.ids):
        return known
    row_of = {identity: row for row, identity in enumerate(known.ids.tolist())}
    return known.take(row_of[identity] for identity in dataset.ids.tolist())


def _load(path: Path) -> Fingerprints | None:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as columns:
            return Fingerprints(*(columns[name] for name in _COLUMNS))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        logger.warning("%s is damaged (%s): the fingerprints are made again", path, error)
        return None


def _save(path: Path, fingerprints: Fingerprints) -> None:
    """Writes the columns under another name first: who reads sees a whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.stem}-{uuid4().hex}.npz")
    try:
        np.savez(draft, **{name: getattr(fingerprints, name) for name in _COLUMNS})
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
