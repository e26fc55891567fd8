"""Fingerprints of structures: equal for the same crystal however it is written down.

For every pair of species (A, B) the distances from an atom A to its nearest atoms B are sorted, and
the smallest, mean and largest k-th distance over all atoms A are kept; so are those to neighbours
of any species, farther out. These are the pointwise distance distributions of Widdowson et al.,
MATCH 87, 529 (2022), reduced to their average (their AMD) and their extremes. They do not change
with rotation, reflection, translation, order of atoms, choice of cell or supercell, and atoms that
move by δ change no entry by more than 2 δ. (Mirror images therefore count as the same crystal.)

Lengths are measured by ℓ, the mean distance to the first 12 neighbours, and u = φ(d/ℓ) is stored,
with φ(x) = x up to 1 and 1 + ln x beyond: near distances count in Å, far ones relatively, so that a
strain weighs the same at every distance. What lies beyond ``REACH`` ℓ counts as being there, which
makes a molecule in a large box equal to the molecule alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float32, Float64, Int64, UInt16

from epitaxy.data.shells import REACH, neighbor_shells
from epitaxy.errors import ConfigError, closest
from epitaxy.graph.composition import amounts_of
from epitaxy.graph.record import CrystalRecord
from epitaxy.graph.symbols import reduced_formula

VERSION = 1
"""Changes whenever stored fingerprints can no longer be compared with new ones."""

Level = Literal["same", "similar"]

TOLERANCES: Mapping[str, float] = {"same": 0.015, "similar": 0.03}
"""Largest difference of any entry, in Å for ``same`` and in units of ℓ (about 3 Å) for ``similar``.

Chosen on 30,325 crystals of the Materials Project (``benchmarks/duplicates.py``). Coordinates that
are 1e-3 Å off together with a strain of 1e-3 make up to 0.012 Å (1,000 crystals). Of the 26,757
pairs of one formula 18 lie below 0.015 Å; pymatgen matches all but two polytypes of ZnS and two
orders of hydrogen in V2H. Relaxations of one material with other settings lie below 0.03 ℓ in nine
of ten cases, and so do many polytypes of ZnS, SiC and CdI2, which differ far out only.
"""

_STEP = (1 + math.log(REACH)) / 65535
_LARGEST_DENOMINATOR = 1000


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """What identifies one record.

    Attributes:
        formula: Reduced formula; only fingerprints of one formula are comparable.
        length: ℓ in Å; 0 for a composition, which its formula identifies.
        values: u of every entry in steps of ``(1 + ln REACH) / 65535``; empty for a composition.
    """

    formula: str
    length: float
    values: UInt16[np.ndarray, " entries"]


@dataclass(frozen=True, eq=False)
class Fingerprints:
    """Fingerprints of many records as columns.

    Attributes:
        ids: Record ids.
        formulas: Reduced formulas.
        lengths: ℓ in Å, 0 for compositions.
        values: Entries of all records, one after the other.
        offsets: First entry of each record, and the number of entries last.
    """

    ids: np.ndarray
    formulas: np.ndarray
    lengths: Float64[np.ndarray, " records"]
    values: UInt16[np.ndarray, " entries"]
    offsets: Int64[np.ndarray, " records+1"]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, row: int) -> Fingerprint:
        start, stop = self.offsets[row], self.offsets[row + 1]
        return Fingerprint(
            str(self.formulas[row]), float(self.lengths[row]), self.values[start:stop]
        )

    @classmethod
    def of(cls, records: Iterable[CrystalRecord]) -> Fingerprints:
        """Returns the fingerprints of ``records``, in their order.

        Raises:
            RecordError: If a cell is so small that the neighbour search would not end.
        """
        ids, found = [], []
        for record in records:
            ids.append(record.id)
            found.append(fingerprint(record))
        return cls.collect(ids, found)

    @classmethod
    def collect(cls, ids: Sequence[str], found: Sequence[Fingerprint]) -> Fingerprints:
        """Returns single fingerprints as columns."""
        sizes = [len(item.values) for item in found]
        return cls(
            np.array(ids, dtype=np.str_),
            np.array([item.formula for item in found], dtype=np.str_),
            np.array([item.length for item in found], dtype=np.float64),
            np.concatenate([np.zeros(0, np.uint16), *(item.values for item in found)]),
            np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        )

    def take(self, rows: Iterable[int]) -> Fingerprints:
        """Returns the fingerprints of ``rows``, in their order."""
        chosen = [int(row) for row in rows]
        return self.collect([str(self.ids[row]) for row in chosen], [self[row] for row in chosen])

    @staticmethod
    def join(parts: Sequence[Fingerprints]) -> Fingerprints:
        """Returns the fingerprints of several sets, one set after the other."""
        ends = np.cumsum([0, *(len(part.values) for part in parts)])
        starts = [part.offsets[:-1] + end for part, end in zip(parts, ends[:-1], strict=True)]
        return Fingerprints(
            np.concatenate([part.ids for part in parts]),
            np.concatenate([part.formulas for part in parts]),
            np.concatenate([part.lengths for part in parts]),
            np.concatenate([part.values for part in parts]),
            np.concatenate([*starts, ends[-1:]]).astype(np.int64),
        )

    def points(self, rows: np.ndarray, level: Level) -> Float32[np.ndarray, "rows entries"]:
        """Returns the coordinates of ``rows``, all of one formula, for ``level``.

        The largest difference of any coordinate is what ``TOLERANCES`` limits: Å for ``same``,
        units of ℓ for ``similar``.
        """
        values = np.stack([self.values[self.offsets[row] : self.offsets[row + 1]] for row in rows])
        factors = self.lengths[rows, None] if level == "same" else np.ones((len(rows), 1))
        return values * (factors * _STEP).astype(np.float32)


def tolerance(level: str, given: float | None = None) -> float:
    """Returns the tolerance of ``level``, or the one that was ``given``.

    Raises:
        ConfigError: If there is no such level, or the tolerance is negative.
    """
    if level not in TOLERANCES:
        raise ConfigError(f"unknown level {level!r}; {closest(level, TOLERANCES)}")
    value = TOLERANCES[level] if given is None else given
    if not value >= 0:
        raise ConfigError(f"the tolerance of level {level!r} must not be negative, got {value}")
    return value


def distance(first: Fingerprint, second: Fingerprint, level: Level = "same") -> float:
    """Returns how far apart two structures are; infinite if their formulas differ.

    Args:
        first: A fingerprint.
        second: Another one.
        level: ``same`` compares distances as they are and gives Å; ``similar`` compares them after
            scaling both structures to equal ℓ and gives units of ℓ.

    Raises:
        ConfigError: If there is no such level.
    """
    tolerance(level)
    if first.formula != second.formula or len(first.values) != len(second.values):
        return math.inf
    if not len(first.values):
        return 0.0
    factors = (first.length, second.length) if level == "same" else (1.0, 1.0)
    steps = first.values * factors[0] - second.values * factors[1]
    return float(np.abs(steps).max()) * _STEP


def formula_of(record: CrystalRecord) -> str:
    """Returns the reduced formula of a crystal or a composition.

    Fractional amounts that stand for whole ones give the same formula: ``Fe0.5Ni0.5`` is ``FeNi``.
    """
    return reduced_formula(_whole(amounts_of(record)))


def _whole(amounts: dict[int, float]) -> dict[int, float]:
    """Returns ``amounts`` times the smallest factor that makes all whole, if there is one."""
    values = np.array(list(amounts.values()))
    for factor in range(1, _LARGEST_DENOMINATOR + 1):
        whole = np.rint(values * factor)
        if whole.all() and np.abs(values * factor - whole).max() < 2e-4:
            return dict(zip(amounts, whole.tolist(), strict=True))
    return amounts


def fingerprint(record: CrystalRecord) -> Fingerprint:
    """Returns the fingerprint of ``record``.

    Raises:
        RecordError: If the cell is so small that the neighbour search would not end.
    """
    formula = formula_of(record)
    if record.is_composition:
        return Fingerprint(formula, 0.0, np.zeros(0, np.uint16))
    length, near, far = neighbor_shells(record)
    # Every second of the far distances carries nearly all that they tell.
    entries = np.concatenate([near.ravel(), far[:, 1::2].ravel()]) / length
    scaled = np.where(entries > 1, 1 + np.log(np.maximum(entries, 1)), entries)
    return Fingerprint(formula, length, np.rint(scaled / _STEP).astype(np.uint16))
