"""What a prepared data set holds: labels, elements, sizes and geometry as robust statistics.

Scalar labels, sizes, compositions and neighbour counts come from the sidecar arrays of all records.
Volumes, distances, pressures and the components of tensor labels need the records themselves: all
of them, or a sample chosen by a hash of the id.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Int64
from tqdm import tqdm

from epitaxy.data.codec import decode
from epitaxy.data.dataset import Dataset
from epitaxy.data.magpie import MAGPIE
from epitaxy.data.measures import GEOMETRY_UNITS, Measures
from epitaxy.data.sidecars import NEIGHBOR_RADII
from epitaxy.data.summaries import Summary, summarise, summarise_components
from epitaxy.data.symmetry import CRYSTAL_SYSTEM, CRYSTAL_SYSTEMS, SPACE_GROUP, crystal_system
from epitaxy.errors import ConfigError
from epitaxy.graph.labels import LabelTable
from epitaxy.graph.record import AMOUNT
from epitaxy.graph.spec import GraphSpec
from epitaxy.graph.symbols import SYMBOLS, reduced_formula
from epitaxy.units import ENERGY

COVERED = (94, 100)
"""Atomic numbers up to which absent elements are listed: plutonium, and the end of most tables."""
LISTED = 10
"""Largest groups and formulas that are named."""

_BLOCK = 512


@dataclass(frozen=True)
class Elements:
    """Which elements occur.

    Attributes:
        records: Symbol to number of records with the element, by atomic number.
        atoms: Symbol to number of atoms; compositions count no atoms.
        absent: ``94`` and ``100`` to the elements up to there that do not occur.
    """

    records: Mapping[str, int]
    atoms: Mapping[str, int]
    absent: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Tally:
    """How often names occur: formulas, chemical systems or groups.

    Attributes:
        records: Records that were counted.
        distinct: Different names.
        repeated: Names that occur more than once.
        largest: The most frequent names and how often each occurs.
    """

    records: int
    distinct: int
    repeated: int
    largest: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Neighbors:
    """Neighbours within a radius.

    Attributes:
        radius: Å.
        per_atom: Neighbours per atom, averaged over each structure.
        mean: Neighbours of an atom, averaged over all atoms.
        isolated: Share of the atoms read that have none; none if no structure was read.
        empty: Structures without any.
    """

    radius: float
    per_atom: Summary
    mean: float
    isolated: float | None
    empty: int


@dataclass(frozen=True)
class Statistics:
    """Statistics of a data set, JSON-ready by ``to_dict``.

    Attributes:
        data_digest: Which data set.
        records: Number of records.
        compositions: Records among them without structure.
        atoms: Atoms of all structures.
        read: Records that were read for what sidecars do not hold.
        reading: Which records these are, in words.
        labels: Name to summary of each label that is a number or made of components. ``energy``
            is followed by ``energy_per_atom``, ``stress`` by ``pressure`` (−tr σ/3, compression
            positive, GPa). Labels of kind (``categories``) and Magpie vectors are not among them.
        categories: ``crystal_system`` and ``space_group``, where labelled, to number of records by
            name; those without are counted as ``unknown``.
        elements: Which elements occur.
        formulas: Reduced formulas; a repeated one has polymorphs or frames.
        systems: Chemical systems (sets of elements).
        groups: Groups that a split keeps together.
        periodicity: Periodic axes (``TTT`` … ``FFF``) to number of structures read.
        geometry: ``num_atoms`` (all structures) and what is measured on the structures read, by
            name; empty without structures.
        neighbors: Neighbours at the radii of the sidecars; empty without structures.
    """

    data_digest: str
    records: int
    compositions: int
    atoms: int
    read: int
    reading: str
    labels: Mapping[str, Summary]
    categories: Mapping[str, Mapping[str, int]]
    elements: Elements
    formulas: Tally
    systems: Tally
    groups: Tally
    periodicity: Mapping[str, int]
    geometry: Mapping[str, Summary]
    neighbors: tuple[Neighbors, ...]

    def to_dict(self) -> dict[str, Any]:
        """Returns the statistics as JSON-ready data."""
        return asdict(self)

    def text(self) -> str:
        """Returns the main numbers as a table for a terminal."""
        from epitaxy.data.statistics_text import statistics_text

        return statistics_text(self)


def describe(dataset: Dataset, *, sample: int | None = None, progress: bool = True) -> Statistics:
    """Returns the statistics of ``dataset``.

    Takes about 1 ms per record that is read, and keeps the components of tensor labels in memory
    (4 bytes each for values per atom).

    Args:
        dataset: A prepared data set.
        sample: How many records to read for what sidecars do not hold: those whose ids have the
            smallest hashes. All records unless given.
        progress: Whether to show a progress bar (on a terminal).

    Raises:
        ConfigError: If ``sample`` is not positive.
        ShardError: If the data set is damaged.
    """
    rows = np.arange(len(dataset))
    table = dataset.label_table(rows)
    read = _rows_to_read(dataset.ids, sample)
    measures = _measure(dataset, read, progress)
    structures = ~_compositions(table)
    formulas = _formulas(table, measures.formulas)
    systems = _chemical_systems(table)
    atoms = table.composition[structures].sum(axis=0)
    return Statistics(
        data_digest=dataset.data_digest,
        records=len(dataset),
        compositions=int((~structures).sum()),
        atoms=int(table.num_atoms[structures].sum()),
        read=len(read),
        reading=_reading(len(read), len(dataset)),
        labels=_labels(dataset, table, measures, structures),
        categories=_categories(table),
        elements=_elements((table.composition > 0).sum(axis=0), atoms),
        formulas=_tally(formulas),
        systems=_tally(systems),
        groups=_tally(dataset.groups.tolist()),
        periodicity=dict(sorted(measures.periodicity.items(), reverse=True)),
        geometry=_geometry(dataset, measures, structures),
        neighbors=_neighbors(dataset, measures.nearest, structures),
    )


def _rows_to_read(ids: np.ndarray, sample: int | None) -> Int64[np.ndarray, " read"]:
    if sample is None or sample >= len(ids):
        return np.arange(len(ids))
    if sample < 1:
        raise ConfigError(f"a sample needs at least one record, got sample={sample}")
    digests = [hashlib.blake2b(name.encode(), digest_size=8).digest() for name in ids.tolist()]
    order = np.argsort(np.frombuffer(b"".join(digests), dtype=">u8"), kind="stable")
    return np.sort(order[:sample])


def _reading(read: int, records: int) -> str:
    if read == records:
        return "all records"
    return f"{read} of {records} records: those whose ids have the smallest BLAKE2b hashes"


def _measure(dataset: Dataset, rows: np.ndarray, progress: bool) -> Measures:
    # The 145 numbers of a Magpie vector have a unit each: together they are no quantity.
    measures = Measures(field for field in dataset.manifest.fields if field.name != MAGPIE)
    bar = tqdm(total=len(rows), unit=" records", desc="statistics",
               disable=None if progress else True)  # fmt: skip
    with bar:
        for start in range(0, len(rows), _BLOCK):
            block = rows[start : start + _BLOCK].tolist()
            measures.add(block, [decode(blob) for blob in dataset.read(block)])
            bar.update(len(block))
    return measures


def _compositions(table: LabelTable) -> np.ndarray:
    known = table.root_mean_square.get(AMOUNT)
    return np.zeros(len(table.num_atoms), bool) if known is None else ~np.isnan(known)


def _labels(
    dataset: Dataset, table: LabelTable, measures: Measures, structures: np.ndarray
) -> dict[str, Summary]:
    found: dict[str, Summary | None] = {}
    ids, read = dataset.ids, np.array(measures.rows, dtype=np.int64)
    for name, field in dataset.fields.items():
        if name in (SPACE_GROUP, CRYSTAL_SYSTEM) and name in table.scalars:
            continue
        if name in table.scalars:
            found[name] = summarise(table.scalars[name], ids, field.unit)
        elif name in measures.components:
            rows, blocks = measures.components[name]
            found[name] = summarise_components(blocks, ids[rows], field.unit, len(read))
        if name == "energy" and field.unit == ENERGY and name in table.scalars:
            per_atom = table.scalars[name] / np.where(structures, table.num_atoms, np.nan)
            found["energy_per_atom"] = summarise(per_atom, ids, f"{ENERGY}/atom")
        if name == "stress":
            found["pressure"] = summarise(measures.pressure, ids[read], "GPa")
    return {name: summary for name, summary in found.items() if summary is not None}


def _categories(table: LabelTable) -> dict[str, dict[str, int]]:
    """Returns crystal systems and space groups; the systems follow from the groups if need be.

    Numbers that are no space group or system count as unknown.
    """
    found = {}
    groups = _kinds(table, SPACE_GROUP, 1, 230)
    systems = _kinds(table, CRYSTAL_SYSTEM, 0, len(CRYSTAL_SYSTEMS) - 1)
    if systems is None and groups is not None:
        systems = [crystal_system(group) for group in groups]
    if systems is not None:
        tally = Counter(systems)
        found[CRYSTAL_SYSTEM] = {name: tally[n] for n, name in enumerate(CRYSTAL_SYSTEMS)}
        found[CRYSTAL_SYSTEM]["unknown"] = len(table.num_atoms) - len(systems)
    if groups is not None:
        tally = Counter(groups)
        found[SPACE_GROUP] = {str(group): tally[group] for group in sorted(tally)}
        found[SPACE_GROUP]["unknown"] = len(table.num_atoms) - len(groups)
    return found


def _kinds(table: LabelTable, name: str, first: int, last: int) -> list[int] | None:
    """Returns the values of a label that are whole and in range; none if there is no such label."""
    values = table.scalars.get(name)
    if values is None:
        return None
    sound = (values >= first) & (values <= last) & (values == np.rint(values))
    return [int(value) for value in values[sound].tolist()]


def _elements(records: np.ndarray, atoms: np.ndarray) -> Elements:
    present = np.flatnonzero(records).tolist()
    return Elements(
        records={SYMBOLS[number]: int(records[number]) for number in present},
        atoms={SYMBOLS[number]: int(atoms[number]) for number in present},
        absent={
            str(last): tuple(SYMBOLS[n] for n in range(1, last + 1) if not records[n])
            for last in COVERED
        },
    )


def _formulas(table: LabelTable, of_compositions: Mapping[int, str]) -> list[str]:
    """Returns the formula of every record; compositions that were not read have none."""
    whole = lru_cache(maxsize=100_000)(lambda pairs: reduced_formula(dict(pairs)))
    compositions = _compositions(table)
    found = []
    for row, counts in enumerate(table.composition):
        if row in of_compositions:
            found.append(of_compositions[row])
        elif not compositions[row]:
            numbers = np.flatnonzero(counts)
            found.append(whole(tuple(zip(numbers.tolist(), counts[numbers].tolist(), strict=True))))
    return found


def _chemical_systems(table: LabelTable) -> list[str]:
    return [
        "-".join(sorted(SYMBOLS[number] for number in np.flatnonzero(counts).tolist()))
        for counts in table.composition
    ]


def _tally(names: list[str]) -> Tally:
    counts = Counter(names)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    repeated = sum(count > 1 for count in counts.values())
    return Tally(len(names), len(counts), repeated, tuple(ordered[:LISTED]))


def _geometry(dataset: Dataset, measures: Measures, structures: np.ndarray) -> dict[str, Summary]:
    if not structures.any():
        return {}
    ids, read = dataset.ids, np.array(measures.rows, dtype=np.int64)
    sizes = dataset.num_atoms[structures].astype(np.float64)
    found = {"num_atoms": summarise(sizes, ids[structures], "")}
    kept = structures[read]
    for name, values in measures.geometry.items():
        found[name] = summarise(values[kept], ids[read[kept]], GEOMETRY_UNITS[name])
    return {name: summary for name, summary in found.items() if summary is not None}


def _neighbors(
    dataset: Dataset, nearest: np.ndarray, structures: np.ndarray
) -> tuple[Neighbors, ...]:
    atoms, ids, found = dataset.num_atoms[structures], dataset.ids[structures], []
    for radius in NEIGHBOR_RADII:
        edges = dataset.num_edges(GraphSpec(cutoff=radius))[structures]
        per_atom = summarise(edges / atoms, ids, "") if len(atoms) else None
        if per_atom is None:
            continue
        isolated = float((nearest > radius).mean()) if len(nearest) else None
        mean = float(edges.sum() / atoms.sum())
        found.append(Neighbors(radius, per_atom, mean, isolated, int((edges == 0).sum())))
    return tuple(found)
