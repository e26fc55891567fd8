"""What only the records themselves tell: geometry, pressure and the components of tensor labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float64

from epitaxy.graph.record import AMOUNT, CrystalRecord, LabelField
from epitaxy.graph.spec import GraphSpec
from epitaxy.graph.symbols import reduced_formula
from epitaxy.units import GPA_PER_EV_A3

NEAREST_RADII = (3.0, 8.0)
"""Å. Nearest neighbours are looked for within the first radius, then within the last."""

GEOMETRY_UNITS = {
    "volume_per_atom": "Å³",
    "shortest_distance": "Å",
    **dict.fromkeys(("a", "b", "c"), "Å"),
    **dict.fromkeys(("alpha", "beta", "gamma"), "°"),
}
"""Quantities measured on every structure, and their units."""


class Measures:
    """Collects the numbers of records that pass by in blocks; in memory it keeps all components.

    Attributes:
        rows: Rows of the records, as they came.
        geometry: Name to one number per record, NaN where it makes no sense: a volume or an angle
            along an axis that is not periodic, the distance of a lone atom.
        pressure: −tr σ/3 in GPa per record, NaN without stress.
        components: Name of a per-atom or tensor label to (rows, the values of each).
        periodicity: Periodic axes (``TTT`` … ``FFF``) to number of structures.
        nearest: Distance of every atom to its nearest neighbour in Å, infinite beyond 8 Å.
        formulas: Reduced formula of compositions, by row.
    """

    def __init__(self, fields: Iterable[LabelField]) -> None:
        self.rows: list[int] = []
        self.components: dict[str, tuple[list[int], list[np.ndarray]]] = {
            field.name: ([], []) for field in fields if field.per_atom or field.shape
        }
        self.periodicity: dict[str, int] = {}
        self.formulas: dict[int, str] = {}
        self._geometry: list[dict[str, np.ndarray]] = []
        self._pressure: list[float] = []
        self._nearest: list[np.ndarray] = []

    def add(self, rows: Sequence[int], records: Sequence[CrystalRecord]) -> None:
        """Measures a block of records."""
        self.rows += rows
        for row, record in zip(rows, records, strict=True):
            self._add_labels(row, record)
        places = [place for place, record in enumerate(records) if not record.is_composition]
        found = {name: np.full(len(records), np.nan) for name in GEOMETRY_UNITS}
        if places:
            measured = self._structures([records[place] for place in places])
            for name, values in measured.items():
                found[name][places] = values
        self._geometry.append(found)

    @property
    def geometry(self) -> dict[str, Float64[np.ndarray, " records"]]:
        """See the class."""
        return {
            name: np.concatenate([block[name] for block in self._geometry] or [np.zeros(0)])
            for name in GEOMETRY_UNITS
        }

    @property
    def pressure(self) -> Float64[np.ndarray, " records"]:
        """See the class."""
        return np.array(self._pressure, dtype=np.float64)

    @property
    def nearest(self) -> Float64[np.ndarray, " atoms"]:
        """See the class."""
        return np.concatenate(self._nearest or [np.zeros(0)])

    def _add_labels(self, row: int, record: CrystalRecord) -> None:
        for name, (rows, blocks) in self.components.items():
            if name in record.labels:
                rows.append(row)
                blocks.append(np.array(record.labels[name].value))  # a view would keep all bytes
        stress = record.labels.get("stress")
        trace = np.nan if stress is None else float(np.trace(stress.value))
        self._pressure.append(-trace / 3 * GPA_PER_EV_A3)
        if record.is_composition:
            amounts = record.labels[AMOUNT].value.reshape(-1).tolist()
            # Single precision holds 7 digits, and 0.1 is to print as 0.1.
            parts = zip(record.numbers.tolist(), amounts, strict=True)
            self.formulas[row] = reduced_formula({n: round(amount, 6) for n, amount in parts})

    def _structures(self, records: Sequence[CrystalRecord]) -> Mapping[str, np.ndarray]:
        cells = np.stack([record.cell for record in records])
        pbc = np.stack([record.pbc for record in records])
        sizes = np.array([record.num_atoms for record in records])
        for axes in pbc.tolist():
            key = "".join("T" if flag else "F" for flag in axes)
            self.periodicity[key] = self.periodicity.get(key, 0) + 1
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        positions = np.concatenate([record.positions for record in records])
        nearest = nearest_distances(positions, cells, pbc, offsets)
        self._nearest.append(nearest)
        shortest = np.minimum.reduceat(nearest, offsets[:-1])
        volume = np.where(pbc.all(axis=1), np.abs(np.linalg.det(cells)) / sizes, np.nan)
        return {
            "volume_per_atom": volume,
            "shortest_distance": np.where(np.isfinite(shortest), shortest, np.nan),
            **_lengths_and_angles(cells, pbc),
        }


def nearest_distances(
    positions: Float64[np.ndarray, "atoms 3"],
    cells: Float64[np.ndarray, "graphs 3 3"],
    pbc: np.ndarray,
    offsets: np.ndarray,
) -> Float64[np.ndarray, " atoms"]:
    """Returns the distance of each atom to its nearest neighbour or own image in Å.

    Infinite beyond the last of ``NEAREST_RADII``. Exact for every cell.
    """
    from epitaxy.graph.neighbors import build_edges  # compiles on first use

    nearest = np.full(len(positions), np.inf)
    todo = np.arange(len(cells))
    for radius in NEAREST_RADII:
        sizes = np.diff(offsets)[todo]
        atoms = _ranges(offsets[todo], sizes)
        starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        points, vectors = positions[atoms], cells[todo]
        edges = build_edges(GraphSpec(cutoff=radius), points, vectors, pbc[todo], starts)
        graph = np.repeat(np.arange(len(todo)), np.diff(edges.edge_offsets))
        images = np.einsum("ei,eij->ej", edges.shifts, vectors[graph])
        lengths = np.linalg.norm(points[edges.source] + images - points[edges.target], axis=1)
        np.minimum.at(nearest, atoms[edges.target], lengths)
        lonely = np.maximum.reduceat(nearest, offsets[:-1]) == np.inf
        todo = np.flatnonzero(lonely)
        if not len(todo):
            break
    return nearest


def _ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Returns ``starts[i], starts[i] + 1, …`` (``lengths[i]`` of them) one after the other."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1]) + np.repeat(starts - ends + lengths, lengths)


def _lengths_and_angles(cells: np.ndarray, pbc: np.ndarray) -> dict[str, np.ndarray]:
    """Returns lattice parameters (Å and degrees) along periodic axes, NaN elsewhere."""
    lengths = np.where(pbc, np.linalg.norm(cells, axis=2), np.nan)
    found = {name: lengths[:, axis] for axis, name in enumerate(("a", "b", "c"))}
    for axis, name in enumerate(("alpha", "beta", "gamma")):
        first, second = (axis + 1) % 3, (axis + 2) % 3
        dots = np.einsum("gi,gi->g", cells[:, first], cells[:, second])
        cosines = dots / (lengths[:, first] * lengths[:, second])
        found[name] = np.degrees(np.arccos(np.clip(cosines, -1, 1)))
    return found
