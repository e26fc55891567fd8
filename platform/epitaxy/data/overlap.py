"""Which records of one data set occur in another, and what to leave out so that none leaks.

A record occurs at one of four levels: ``id`` (the ids are equal, or the group of one is the id of
the other: a frame and its material), ``formula`` (the reduced formula), ``similar`` (the structure,
up to scaling: the same material relaxed with other settings) and ``same`` (the structure). Whoever
pre-trains on one set and tests on the other leaves out what ``exclude_list`` names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64, Int64

from epitaxy.data.dataset import Dataset
from epitaxy.data.duplicates import Matches, buckets, find_matches, load_fingerprints
from epitaxy.data.fingerprint import Fingerprints, distance
from epitaxy.errors import ConfigError, closest

Level = Literal["id", "formula", "similar", "same"]

LEVELS: tuple[Level, ...] = ("id", "formula", "similar", "same")

WHOLE = "all"
"""Name of the only split of a data set that was given without splits."""

Rows = Int64[np.ndarray, " records"]

_EXAMPLES = 5
_NONE = -1


@dataclass(frozen=True)
class Match:
    """A record of the first set and the nearest match in one split of the second.

    Attributes:
        id: Record of the first set.
        group: Its material.
        split: Its split; empty if it is in none.
        other: Record of the second set.
        other_split: Its split.
        distance: Å at level ``same``, units of ℓ at ``similar``, else 0.
    """

    id: str
    group: str
    split: str
    other: str
    other_split: str
    distance: float


@dataclass(frozen=True, eq=False)
class OverlapReport:
    """What two data sets (or the splits of one) have in common.

    Attributes:
        level: What counts as a match in ``matches``.
        first: Name of the first data set.
        second: Name of the second one; the same for the splits of one set.
        sizes: Records per split of the first set.
        other_sizes: Records per split of the second set.
        counts: First split, second split and level to how many ``records`` of the first and
            ``others`` of the second have a match.
        matches: Every record of the first set that has a match, once per split of the second.
        ids: Ids of the first set, (records,).
        groups: Its groups, (records,).
        split_of: Split of each of its records, empty for none, (records,).
        alone: Whether a set is compared with itself.
    """

    level: Level
    first: str
    second: str
    sizes: Mapping[str, int]
    other_sizes: Mapping[str, int]
    counts: Mapping[str, Mapping[str, Mapping[str, Mapping[str, int]]]]
    matches: tuple[Match, ...]
    ids: np.ndarray
    groups: np.ndarray
    split_of: np.ndarray
    alone: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Returns the numbers and every match as JSON-ready data."""
        return {
            "level": self.level,
            "first": {"name": self.first, "records": len(self.ids), "splits": dict(self.sizes)},
            "second": {"name": self.second, "splits": dict(self.other_sizes)},
            "counts": {
                split: {other: dict(found) for other, found in others.items()}
                for split, others in self.counts.items()
            },
            "examples": {
                split: {other: self._examples(split, other) for other in others}
                for split, others in self.counts.items()
            },
            "matches": [asdict(match) for match in self.matches],
        }

    def table(self) -> str:
        """Returns the counts as plain text, a line for every pair of splits."""
        header = [self.first, "records", self.second, "records", *LEVELS, "examples"]
        lines = [header]
        for split, others in self.counts.items():
            for other, found in others.items():
                numbers = [f"{found[level]['records']:,}" for level in LEVELS]
                pairs = ", ".join(f"{a} = {b}" for a, b in self._examples(split, other)[:2])
                sizes = f"{self.sizes[split]:,}", f"{self.other_sizes[other]:,}"
                lines.append([split, sizes[0], other, sizes[1], *numbers, pairs])
        widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if column in (0, 2, len(header) - 1) else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        )

    def _examples(self, split: str, other: str) -> list[list[str]]:
        chosen = (m for m in self.matches if (m.split, m.other_split) == (split, other))
        return [[match.id, match.other] for match, _ in zip(chosen, range(_EXAMPLES), strict=False)]


def overlap(
    first: Dataset,
    second: Dataset | None = None,
    *,
    first_splits: Mapping[str, Rows] | None = None,
    second_splits: Mapping[str, Rows] | None = None,
    level: Level = "same",
    tolerance: float | None = None,
    cache: str | Path | None = None,
    progress: bool = False,
) -> OverlapReport:
    """Returns which records of ``first`` occur in ``second``, counted at every level.

    Args:
        first: For example what is pre-trained on.
        second: For example what is tested on; without it ``first`` is compared with itself,
            across its splits.
        first_splits: Rows of each split of ``first``, as ``split_rows`` gives them.
        second_splits: The same for ``second``.
        level: What ``matches`` of the report and the exclude list go by.
        tolerance: Instead of that of ``level``, if it is a level of structures.
        cache: Folder that keeps fingerprints between calls.
        progress: Whether to show progress bars (on a terminal).

    Raises:
        ConfigError: If there is no such level, splits share records, or a set that is compared
            with itself has no two splits.
    """
    if level not in LEVELS:
        raise ConfigError(f"unknown level {level!r}; {closest(level, LEVELS)}")
    if tolerance is not None and level not in ("similar", "same"):
        raise ConfigError(f"level {level!r} has no tolerance; it goes by names alone")
    if second is None:
        if second_splits is not None or first_splits is None or len(first_splits) < 2:
            raise ConfigError(
                "a data set is compared with itself across its splits: give first_splits with two "
                "splits or more, and no second_splits"
            )
        second_splits = first_splits
    ours = _Side.of(first, first_splits, cache, progress)
    theirs = ours if second is None else _Side.of(second, second_splits, cache, progress)
    limits = {level: tolerance}
    found = {name: _Found(ours, theirs, _hits(ours, theirs, name, limits)) for name in LEVELS}
    _include_same(found["similar"], found["same"])
    return OverlapReport(
        level=level,
        first=first.path.name,
        second=(second or first).path.name,
        sizes={name: len(rows) for name, rows in ours.splits.items()},
        other_sizes={name: len(rows) for name, rows in theirs.splits.items()},
        counts=_counts(ours, theirs, found),
        matches=tuple(found[level].matches()),
        ids=first.ids,
        groups=first.groups,
        split_of=ours.names(),
        alone=ours is theirs,
    )


def exclude_list(
    report: OverlapReport, *, splits: Sequence[str] | None = None, groups: bool = True
) -> list[str]:
    """Returns the ids of the first set to leave out, in row order.

    Written to a file, one per line, they are what training takes as ``filter.exclude``.

    Args:
        report: From ``overlap``.
        splits: Splits of the second set that must not be seen; default: ``test``, or everything
            if the second set has no such split.
        groups: Whether a match takes its whole group along: all frames of a trajectory, one of
            which is the tested material.

    Raises:
        ConfigError: If the second set has no such split.
    """
    known = list(report.other_sizes)
    wanted = list(splits) if splits is not None else ["test"] if "test" in known else known
    for name in wanted:
        if name not in known:
            raise ConfigError(f"{report.second} has no split {name!r}; {closest(name, known)}")
    hits = [match for match in report.matches if match.other_split in wanted]
    if groups:
        lost = np.isin(report.groups, [match.group for match in hits])
    else:
        lost = np.isin(report.ids, [match.id for match in hits])
    if report.alone:  # what is tested stays, also where its group is in two splits
        lost &= ~np.isin(report.split_of, wanted)
    return [str(identity) for identity in report.ids[lost]]


def write_exclude_list(path: str | Path, ids: Sequence[str]) -> None:
    """Writes ``ids`` as a text file, one per line."""
    Path(path).write_text("".join(f"{identity}\n" for identity in ids), encoding="utf-8")


@dataclass(frozen=True, eq=False)
class _Side:
    """One of the two sets; ``split_of`` is the place of each record's split, -1 without one."""

    ids: np.ndarray
    groups: np.ndarray
    fingerprints: Fingerprints
    splits: Mapping[str, Rows]
    split_of: Int64[np.ndarray, " records"]

    @classmethod
    def of(
        cls,
        dataset: Dataset,
        splits: Mapping[str, Rows] | None,
        cache: str | Path | None,
        progress: bool,
    ) -> _Side:
        splits = {WHOLE: np.arange(len(dataset))} if splits is None else splits
        split_of = np.full(len(dataset), _NONE, dtype=np.int64)
        for place, (name, rows) in enumerate(splits.items()):
            if (split_of[rows] != _NONE).any():
                other = list(splits)[split_of[rows].max()]
                raise ConfigError(
                    f"{dataset.path}: splits {other!r} and {name!r} share records; every record "
                    "belongs to one split at most"
                )
            split_of[rows] = place
        fingerprints = load_fingerprints(dataset, cache=cache, progress=progress)
        return cls(dataset.ids, dataset.groups, fingerprints, splits, split_of)

    def names(self) -> np.ndarray:
        """Returns the name of each record's split, empty without one."""
        return np.array([*self.splits, ""], dtype=np.str_)[self.split_of]


def _hits(
    ours: _Side, theirs: _Side, level: Level, limits: Mapping[Level, float | None]
) -> Iterator[Matches]:
    if level in ("same", "similar"):
        yield from find_matches(
            ours.fingerprints,
            theirs.fingerprints,
            level=level,
            tolerance=limits.get(level),
        )
        return
    if level == "id":
        yield from _namesakes(ours, theirs)
        return
    others = buckets(theirs.fingerprints.formulas)
    for formula, rows in buckets(ours.fingerprints.formulas).items():
        if formula in others:
            yield Matches(rows, others[formula], np.zeros(len(others[formula])))


def _namesakes(ours: _Side, theirs: _Side) -> Iterator[Matches]:
    """Yields records of one id, or with a group that is the id of the other."""
    by_id, by_group = buckets(theirs.ids), buckets(theirs.groups)
    for row, (identity, group) in enumerate(
        zip(ours.ids.tolist(), ours.groups.tolist(), strict=True)
    ):
        named = (by_id.get(identity), by_id.get(group), by_group.get(identity))
        rows = [found for found in named if found is not None]
        if rows:
            others = np.unique(np.concatenate(rows))
            yield Matches(np.array([row]), others, np.zeros(len(others)))


class _Found:
    """The nearest match of each record of the first set in every split of the second."""

    def __init__(self, ours: _Side, theirs: _Side, hits: Iterator[Matches]) -> None:
        self.ours = ours
        self.theirs = theirs
        shape = (len(theirs.splits), len(ours.ids))
        self.nearest = np.full(shape, _NONE, dtype=np.int64)
        self.distance: Float64[np.ndarray, "splits records"] = np.full(shape, np.inf)
        self.others = np.zeros((len(ours.splits), len(theirs.ids)), dtype=bool)
        for hit in hits:
            self._take(hit)

    def _take(self, hit: Matches) -> None:
        alone = self.ours is self.theirs
        own = self.ours.split_of[hit.first]
        their = self.theirs.split_of[hit.second]
        for place in np.unique(their[their != _NONE]).tolist():
            inside = np.flatnonzero(their == place)
            best = inside[hit.distance[inside].argmin()]
            rows = hit.first[own != place] if alone else hit.first
            self.nearest[place, rows] = hit.second[best]
            self.distance[place, rows] = hit.distance[best]
            for split in np.unique(own[own != _NONE]).tolist():
                if not (alone and split == place):
                    self.others[split, hit.second[inside]] = True

    def matches(self) -> Iterator[Match]:
        """Yields every match, by row and then by split of the second set."""
        names, other_names = self.ours.names(), list(self.theirs.splits)
        for row, place in np.argwhere(self.nearest.T != _NONE).tolist():
            yield Match(
                id=str(self.ours.ids[row]),
                group=str(self.ours.groups[row]),
                split=str(names[row]),
                other=str(self.theirs.ids[self.nearest[place, row]]),
                other_split=other_names[place],
                distance=round(float(self.distance[place, row]), 6),
            )


def _include_same(similar: _Found, same: _Found) -> None:
    """Counts as similar what is the same, however the two tolerances compare."""
    missing = (similar.nearest == _NONE) & (same.nearest != _NONE)
    for place, row in np.argwhere(missing).tolist():
        other = int(same.nearest[place, row])
        apart = distance(
            same.ours.fingerprints[row], same.theirs.fingerprints[other], level="similar"
        )
        similar.nearest[place, row], similar.distance[place, row] = other, apart
    similar.others |= same.others


def _counts(
    ours: _Side, theirs: _Side, found: Mapping[Level, _Found]
) -> dict[str, dict[str, dict[str, dict[str, int]]]]:
    counts: dict[str, dict[str, dict[str, dict[str, int]]]] = {}
    for place, split in enumerate(ours.splits):
        for other_place, other in enumerate(theirs.splits):
            if ours is theirs and place == other_place:
                continue
            counts.setdefault(split, {})[other] = {
                level: {
                    "records": int((hits.nearest[other_place, ours.splits[split]] != _NONE).sum()),
                    "others": int(hits.others[place, theirs.splits[other]].sum()),
                }
                for level, hits in found.items()
            }
    return counts
