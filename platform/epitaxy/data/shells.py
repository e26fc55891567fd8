"""Sorted distances from the atoms of a structure to their neighbours, summarised over the atoms."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64
from numba import njit

from epitaxy.graph.neighbors import build_edges
from epitaxy.graph.record import CrystalRecord
from epitaxy.graph.spec import GraphSpec

FIRST_SHELL = 12
"""Neighbours whose mean distance is the unit of length ℓ."""

FARTHEST_SHELL = 12.0
"""Å. Neighbours beyond count as being there in ℓ."""

REACH = 5.5
"""Neighbours are looked for up to this many ℓ."""

NEAREST = 24
"""Neighbours of each species whose distances are kept."""

FAR = 1024
"""Neighbours of any species; every second distance is kept."""

_BINS = 1024

Array = Any  # of numpy outside, of numba inside a kernel; docstrings give shapes

_jit = njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")


class Shells(NamedTuple):
    """Smallest, mean and largest k-th distance over the atoms of a structure, in Å.

    What is farther away than ``REACH`` lengths, or missing, counts as being there.

    Attributes:
        length: ℓ, the mean distance to the first ``FIRST_SHELL`` neighbours (12 Å at most).
        near: By species of centre and neighbour, in the order of atomic numbers,
            (species, species, 3, ``NEAREST``).
        far: For all centres and neighbours alike, (3, ``FAR``).
    """

    length: float
    near: Float64[np.ndarray, "species species 3 nearest"]
    far: Float64[np.ndarray, "3 far"]


def neighbor_shells(record: CrystalRecord) -> Shells:
    """Returns the sorted distances of ``record``.

    Raises:
        RecordError: If the cell is so small that the neighbour search would not end.
    """
    elements, species = np.unique(record.numbers, return_inverse=True)
    cell = _reduced(record.cell, record.pbc)
    length = _unit_length(record, cell)
    near = np.zeros((len(elements), len(elements), 3, NEAREST))
    far = np.zeros((3, FAR))
    edges = _neighbors(record, cell, REACH * length)
    _summarise(record.positions, cell, *edges, species, REACH * length, near, far)
    return Shells(length, near, far)


def _reduced(cell: np.ndarray, pbc: np.ndarray) -> Float64[np.ndarray, "3 3"]:
    """Returns the same lattice with short vectors, so that few periodic images are searched."""
    reduced = np.array(cell, dtype=np.float64)
    axes = np.flatnonzero(pbc).tolist()
    shorter = True
    while shorter:
        shorter = False
        for axis in axes:
            for other in axes:
                if other == axis:
                    continue
                square = reduced[other] @ reduced[other]
                whole = round(float(reduced[axis] @ reduced[other] / square))
                vector = reduced[axis] - whole * reduced[other]
                if vector @ vector < (1 - 1e-9) * (reduced[axis] @ reduced[axis]):
                    reduced[axis] = vector
                    shorter = True
    return reduced


def _unit_length(record: CrystalRecord, cell: np.ndarray) -> float:
    """Returns ℓ in Å."""
    radius = 4.0
    if record.pbc.all():
        radius = 2.4 * (abs(np.linalg.det(cell)) / record.num_atoms) ** (1 / 3)
    radius = min(max(radius, 2.0), FARTHEST_SHELL)
    while True:
        source, shifts, rows = _neighbors(record, cell, radius)
        if radius == FARTHEST_SHELL or np.diff(rows).min() >= FIRST_SHELL:
            break
        radius = min(1.3 * radius, FARTHEST_SHELL)
    near, far = np.zeros((1, 1, 3, FIRST_SHELL)), np.zeros((3, 0))
    species = np.zeros(record.num_atoms, np.int64)
    _summarise(record.positions, cell, source, shifts, rows, species, FARTHEST_SHELL, near, far)
    return float(near[0, 0, 1].mean())


def _neighbors(
    record: CrystalRecord, cell: np.ndarray, radius: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns neighbours within ``radius`` (Å), their images and the first one of each atom."""
    edges = build_edges(
        GraphSpec(cutoff=radius),
        record.positions,
        cell[None],
        record.pbc[None],
        np.array([0, record.num_atoms]),
        names=[record.id],
    )
    rows = np.searchsorted(edges.target, np.arange(record.num_atoms + 1))
    return edges.source, edges.shifts, rows


@_jit
def _summarise(
    positions: Array,
    cell: Array,
    source: Array,
    shifts: Array,
    rows: Array,
    species: Array,
    cap: float,
    near: Array,
    far: Array,
) -> None:
    """Writes smallest, mean and largest of every sorted distance; ``cap`` (Å) if there is none.

    Args:
        positions: Å, (atoms, 3).
        cell: Å, (3, 3).
        source: Neighbour of each edge, (edges,).
        shifts: Its image, (edges, 3).
        rows: First edge of each atom, (atoms + 1,).
        species: Of each atom, from 0, (atoms,).
        cap: Å.
        near: Receives them by species of centre and neighbour, (species, species, 3, k).
        far: Receives them for all centres and neighbours alike, (3, k).
    """
    num_species, nearest, farthest = near.shape[1], near.shape[3], far.shape[1]
    longest = 0
    for atom in range(len(positions)):
        longest = max(longest, rows[atom + 1] - rows[atom])
    squares, ordered = np.empty(longest), np.empty(longest)
    sorted_near = np.empty((num_species, nearest))
    sorted_far = np.empty(farthest)
    bins = np.empty(_BINS + 2, np.int64)
    seen = np.zeros(num_species)
    for atom in range(len(positions)):
        start, stop = rows[atom], rows[atom + 1]
        _measure(positions, cell, atom, source[start:stop], shifts[start:stop], squares)
        sorted_near[:] = cap * cap
        for k in range(stop - start):
            _insert(sorted_near[species[source[start + k]]], squares[k])
        centre = species[atom]
        for other in range(num_species):
            _add(near[centre, other], sorted_near[other], seen[centre] == 0)
        seen[centre] += 1
        if farthest:
            _sort(squares[: stop - start], cap * cap, bins, ordered)
            for k in range(farthest):
                sorted_far[k] = ordered[k] if k < stop - start else cap * cap
            _add(far, sorted_far, atom == 0)
    for centre in range(num_species):
        near[centre, :, 1] /= seen[centre]
    far[1] /= len(positions)


@_jit
def _measure(
    positions: Array, cell: Array, atom: int, source: Array, shifts: Array, squares: Array
) -> None:
    """Writes the squared length of each edge of ``atom``, Å²."""
    x_0, x_1, x_2 = positions[atom, 0], positions[atom, 1], positions[atom, 2]
    for edge in range(len(source)):
        a, b, c = shifts[edge, 0], shifts[edge, 1], shifts[edge, 2]
        neighbor = positions[source[edge]]
        x = neighbor[0] - x_0 + a * cell[0, 0] + b * cell[1, 0] + c * cell[2, 0]
        y = neighbor[1] - x_1 + a * cell[0, 1] + b * cell[1, 1] + c * cell[2, 1]
        z = neighbor[2] - x_2 + a * cell[0, 2] + b * cell[1, 2] + c * cell[2, 2]
        squares[edge] = x * x + y * y + z * z


@_jit
def _sort(values: Array, largest: float, bins: Array, ordered: Array) -> None:
    """Writes ``values`` in order: by bins first, so that little is left to insertion."""
    bins[:] = 0
    scale = _BINS / largest
    for value in values:
        bins[min(int(value * scale), _BINS) + 1] += 1
    for k in range(1, len(bins)):
        bins[k] += bins[k - 1]
    for value in values:
        place = min(int(value * scale), _BINS)
        ordered[bins[place]] = value
        bins[place] += 1
    for k in range(1, len(values)):
        value, place = ordered[k], k
        while place > 0 and ordered[place - 1] > value:
            ordered[place] = ordered[place - 1]
            place -= 1
        ordered[place] = value


@_jit
def _insert(smallest: Array, value: float) -> None:
    """Puts ``value`` into a sorted list whose largest member falls out."""
    place = len(smallest) - 1
    if value >= smallest[place]:
        return
    while place > 0 and smallest[place - 1] > value:
        smallest[place] = smallest[place - 1]
        place -= 1
    smallest[place] = value


@_jit
def _add(totals: Array, values: Array, first: bool) -> None:
    """Takes roots of ``values`` of one more atom into smallest, sum and largest, (3, k)."""
    for k in range(len(values)):
        value = math.sqrt(values[k])
        totals[0, k] = value if first else min(totals[0, k], value)
        totals[1, k] += value
        totals[2, k] = value if first else max(totals[2, k], value)
