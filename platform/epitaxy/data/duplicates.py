"""Which records hold the same structure, found without comparing every pair.

Only fingerprints of one reduced formula are compared. Within such a bucket a k-d tree on a few
widely spread coordinates gives candidates (whoever is near in all coordinates is near in these),
and the full fingerprints decide. Copies are collapsed before the tree sees them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Float64, Int64
from tqdm import tqdm

from epitaxy.data.codec import decode
from epitaxy.data.dataset import Dataset
from epitaxy.data.fingerprint import VERSION, Fingerprint, Fingerprints, Level, fingerprint
from epitaxy.data.fingerprint import tolerance as tolerance_of
from epitaxy.data.split_rules import cluster_keys

logger = logging.getLogger(__name__)

_TREE_AXES = 16
_QUERY_BLOCK = 256
_READ_BLOCK = 256
_COLUMNS = ("ids", "formulas", "lengths", "values", "offsets")


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
    union = Union(len(fingerprints))
    for found in find_matches(fingerprints, fingerprints, level=level, tolerance=tolerance):
        linked = np.concatenate([found.first, found.second])
        union.join(np.full(len(linked), linked[0]), linked)
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
    points, copies = _distinct(first.points(rows, level), rows)
    other_points, other_copies = _distinct(second.points(others, level), others)
    for place, near, apart in _near(points, other_points, limit):
        found = [other_copies[k] for k in near]
        distance = np.repeat(apart, [len(part) for part in found])
        yield Matches(copies[place], np.concatenate(found), distance)


def _distinct(points: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Returns the different ``points`` and which of ``rows`` are copies of each."""
    places: dict[bytes, list[int]] = {}
    for place, point in enumerate(points):
        places.setdefault(point.tobytes(), []).append(place)
    kept = [members[0] for members in places.values()]
    return points[kept], [rows[members] for members in places.values()]


def _near(
    points: np.ndarray, others: np.ndarray, limit: float
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yields (place, places of others within ``limit``, their distances), none if there are none.

    The distance is the largest difference of any coordinate.
    """
    from scipy.spatial import cKDTree

    spread = np.argsort(others.std(axis=0))[::-1]
    axes = spread[np.linspace(0, len(spread) // 2, _TREE_AXES).astype(int)]
    tree = cKDTree(others[:, axes])
    for start in range(0, len(points), _QUERY_BLOCK):
        block = points[start : start + _QUERY_BLOCK]
        candidates = tree.query_ball_point(block[:, axes], limit * (1 + 1e-9), p=np.inf)
        for offset, listed in enumerate(candidates):
            chosen = np.array(sorted(listed), dtype=np.int64)
            apart = np.abs(others[chosen] - block[offset]).max(axis=1, initial=0.0)
            near = apart <= limit
            if near.any():
                yield start + offset, chosen[near], apart[near]


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
