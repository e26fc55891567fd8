"""A crystal as seen from one side: its atoms, its strongest edges and its cell in a plane."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from jaxtyping import Bool, Float64, Int64

from epitaxy.graph.record import CrystalRecord
from epitaxy.predict.explain import EdgeWeights

PER_ATOM, PER_ATOM_OF_MANY = 4, 2
"""Edges drawn into each atom at least, if it has as many; equally strong ones are not parted."""
MANY = 40
"""Atoms from which on a picture would be crowded."""

_SAME = 1e-4
"""Share of the largest weight within which weights count as equal."""
_TILTS = (9.0, 17.0, 25.0)
"""Degrees between the line of sight and a lattice vector."""
_CLEAR = 1.1
"""Å between two atoms in the plane from which they count as well apart."""


@dataclass(frozen=True, eq=False)
class View:
    """Points are the atoms of the cell, and after them images that edges lead to.

    Attributes:
        points: In the plane, Å, (points, 2).
        depth: Towards the reader, Å, (points,).
        atoms: Which atom of the record each point is, (points,).
        inside: Whether it is the one in the cell, (points,).
        bonds: Points that an edge joins, (bonds, 2).
        weights: Mean weight of the edges there and back, (bonds,).
        outline: The cell's edges, (12, 2, 2), none without three periodic axes.
        axis: What one looks along, nearly: a lattice vector (``a``, ``b``, ``c``), or an axis
            (``x``, ``y``, ``z``) where the crystal is not periodic.
    """

    points: Float64[np.ndarray, "points 2"]
    depth: Float64[np.ndarray, " points"]
    atoms: Int64[np.ndarray, " points"]
    inside: Bool[np.ndarray, " points"]
    bonds: Int64[np.ndarray, "bonds 2"]
    weights: Float64[np.ndarray, " bonds"]
    outline: Float64[np.ndarray, "lines 2 2"]
    axis: str


def view(record: CrystalRecord, edges: EdgeWeights | None, per_atom: int | None = None) -> View:
    """Returns the view in which as few atoms as possible hide one another.

    Args:
        record: What is seen.
        edges: Weights; without, atoms only are seen.
        per_atom: See ``strongest``; 4 unless given, 2 for more than 40 atoms.
    """
    if per_atom is None:
        per_atom = PER_ATOM if record.num_atoms <= MANY else PER_ATOM_OF_MANY
    homes, cells = _wrapped(record)
    bonds = _bonds(edges, cells, per_atom) if edges is not None else {}
    places = {(atom, (0, 0, 0)): atom for atom in range(record.num_atoms)}
    for pair in bonds:
        for node in pair:
            places.setdefault(node, len(places))
    atoms = np.array([atom for atom, _ in places], dtype=np.int64)
    images = np.array([image for _, image in places], dtype=np.float64)
    positions = homes[atoms] + images @ record.cell
    axis, frame = _best_frame(record, positions)
    centre = positions[: record.num_atoms].mean(0)
    projected = (positions - centre) @ frame.T
    corners = (_cell_lines(record) - centre) @ frame.T
    joined = [[places[one], places[other]] for one, other in bonds]
    return View(
        projected[:, :2],
        projected[:, 2],
        atoms,
        (images == 0).all(1),
        np.array(joined, dtype=np.int64).reshape(-1, 2),
        np.array(list(bonds.values()), dtype=np.float64),
        corners[..., :2],
        axis,
    )


def strongest(edges: EdgeWeights, per_atom: int) -> Bool[np.ndarray, " edges"]:
    """Returns the largest weights into each atom, with all that equal the last of them."""
    weights = np.abs(edges.mean)
    real = np.ones(len(edges), bool) if edges.distances is None else edges.distances > 0
    chosen = np.zeros(len(edges), bool)
    for atom in np.unique(edges.target[real]):
        rows = np.flatnonzero(real & (edges.target == atom))
        last = np.sort(weights[rows])[-min(per_atom, len(rows))]
        chosen[rows[weights[rows] >= last - _SAME * weights.max()]] = True
    return chosen


_Node = tuple[int, tuple[int, int, int]]


def _bonds(
    edges: EdgeWeights, cells: np.ndarray, per_atom: int
) -> dict[tuple[_Node, _Node], float]:
    """Returns the joined points, each pair once, with the mean weight there and back."""
    shifts = edges.shifts + cells[edges.source] - cells[edges.target]
    weights: dict[tuple[int, int, tuple[int, ...]], list[float]] = {}
    ends = list(zip(edges.source.tolist(), edges.target.tolist(), shifts.tolist(), strict=True))
    for (source, target, shift), weight in zip(ends, edges.mean.tolist(), strict=True):
        weights.setdefault((source, target, tuple(shift)), []).append(weight)
    bonds: dict[tuple[_Node, _Node], float] = {}
    for row in np.flatnonzero(strongest(edges, per_atom)):
        source, target, (x, y, z) = ends[row]
        both = weights[source, target, (x, y, z)] + weights.get((target, source, (-x, -y, -z)), [])
        one, other = sorted([(target, (0, 0, 0)), (source, (x, y, z))])
        bonds[one, other] = float(np.mean(both))
    return bonds


def _wrapped(record: CrystalRecord) -> tuple[np.ndarray, np.ndarray]:
    """Returns positions within the cell, and the cells that the atoms were taken from."""
    fractions = record.positions @ np.linalg.pinv(record.cell)
    cells = np.floor(fractions + 1e-6) * record.pbc
    return record.positions - cells @ record.cell, cells.astype(np.int64)


def _best_frame(record: CrystalRecord, positions: np.ndarray) -> tuple[str, np.ndarray]:
    """Returns the name of the axis and the frame: rows point right, up and to the reader."""
    return max(_frames(record), key=lambda named: _clearness(positions @ named[1][:2].T))


def _clearness(flat: np.ndarray) -> float:
    """Returns how well apart points in the plane are, rounded, so that the first of equals wins."""
    if len(flat) < 2:
        return 0.0
    apart = np.linalg.norm(flat[:, None] - flat[None], axis=-1)
    np.fill_diagonal(apart, np.inf)
    return round(float(np.minimum(apart.min(1), _CLEAR).mean()), 2)


def _frames(record: CrystalRecord) -> Iterator[tuple[str, np.ndarray]]:
    """Yields lines of sight close to each lattice vector, c first."""
    lattice = np.where(record.pbc[:, None], record.cell, np.eye(3))
    if abs(np.linalg.det(lattice)) < 1e-6:
        lattice = np.eye(3)
    for along in (2, 1, 0):
        right, up = lattice[(along + 1) % 3], lattice[(along + 2) % 3]
        for tilt, turn in product(_TILTS, _TILTS):
            sight = _unit(lattice[along])
            across = _unit(right - right @ sight * sight)
            over = np.cross(sight, across)
            over = over if over @ up > 0 else -over
            sight = np.cross(across, over)
            sight = _unit(
                sight + np.tan(np.radians(tilt)) * across + np.tan(np.radians(turn)) * over
            )
            across = _unit(across - across @ sight * sight)
            yield (
                ("abc" if record.pbc[along] else "xyz")[along],
                np.array([across, np.cross(sight, across), sight]),
            )


def _unit(vector: np.ndarray) -> np.ndarray:
    unit: np.ndarray = vector / np.linalg.norm(vector)
    return unit


def _cell_lines(record: CrystalRecord) -> np.ndarray:
    """Returns the ends of the cell's twelve edges, (12, 2, 3), none if it is not periodic."""
    if not record.pbc.all():
        return np.zeros((0, 2, 3))
    lines = []
    for axis in range(3):
        for first, second in product((0, 1), repeat=2):
            start = np.insert(np.array([first, second]), axis, 0)
            stop = np.insert(np.array([first, second]), axis, 1)
            lines.append(np.array([start, stop]) @ record.cell)
    return np.array(lines, dtype=np.float64)
