"""All edges within a radius in a crystal of thousands of atoms, in time proportional to its edges.

Atoms are sorted into bins along the lattice vectors; those within the cutoff of an atom lie in its
own bin or at most ``spans`` bins away, where bins beyond the last one are those of the next image.
Bins along the last axis are neighbours in memory, so the candidates of an atom are some nine runs
of atoms.

Edges are found atom by atom and written back to front: what atom i sees of atom j becomes the edge
from i in the row of j. As i rises, so do the sources in every row, and images of a pair are met in
falling order, so that rows come out sorted without a sort.

These kernels use nothing of another file, no constant either; see ``periodic`` for why.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from epitaxy.graph.periodic import (
    DISTANCE_TOLERANCE,
    MAX_CELLS_AWAY,
    MAX_IMAGES,
    REACH_MARGIN,
    SHORTEST,
    TOO_FAR_AWAY,
    TOO_MANY_IMAGES,
    Array,
)

LARGE = 500
"""Atoms from which on bins are faster than trying all pairs."""

_BINS_PER_ATOM = 2

_jit = njit(cache=True, nogil=True, fastmath={"contract"})


class Bins(NamedTuple):
    """One crystal sorted into bins; ``lattice`` is the cell with zero rows along open axes.

    ``wrapped`` are the atoms moved into the cell, Å, (atoms, 3), ``points`` the same in order of
    bins, (3, atoms), and ``order`` their numbers; ``starts`` is the first of each bin, ``places``
    (atoms, 3) the bin of each atom along each axis, ``wraps`` (atoms, 3) the cell it was in,
    ``counts`` and ``spans`` (3,) the number of bins and how many the cutoff reaches across,
    ``periodic`` (3,) whether bins repeat. Squared distances from ``low`` (not itself) to ``high``
    are inside, Å².
    """

    wrapped: Array
    points: Array
    order: Array
    starts: Array
    places: Array
    wraps: Array
    counts: Array
    spans: Array
    periodic: Array
    lattice: Array
    low: float
    high: float


def sort_into_bins(positions: Array, cell: Array, pbc: Array, cutoff: float) -> Bins | int:
    """Returns the bins, or a status of ``periodic`` that says why there are none.

    Args:
        positions: Å, (atoms, 3), anywhere.
        cell: Å, (3, 3).
        pbc: (3,).
        cutoff: Å.
    """
    lattice = np.where(pbc[:, None], cell, 0.0)
    try:
        axes, fractions = _coordinates(positions, cell, pbc)
    except np.linalg.LinAlgError:  # a cell without volume
        return TOO_MANY_IMAGES
    reach = cutoff * np.linalg.norm(np.linalg.inv(axes), axis=0) + REACH_MARGIN
    images = np.where(pbc, np.floor(2 * reach) + 1, 1).prod()
    if not images * len(positions) <= MAX_IMAGES:
        return TOO_MANY_IMAGES
    wraps = np.where(pbc, np.floor(fractions), 0.0)
    if not (np.abs(wraps) <= MAX_CELLS_AWAY).all():
        return TOO_FAR_AWAY
    counts = np.maximum(1.0 / reach, 1.0)
    counts *= min(1.0, np.cbrt(_BINS_PER_ATOM * len(positions) / counts.prod()))
    counts = np.maximum(counts, 1.0).astype(np.int64)
    places = ((fractions - wraps) * counts).astype(np.int64).clip(0, counts - 1)
    flat = (places[:, 0] * counts[1] + places[:, 1]) * counts[2] + places[:, 2]
    order = np.argsort(flat, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(flat, minlength=counts.prod()))])
    wrapped = positions - wraps @ lattice
    return Bins(
        wrapped,
        np.ascontiguousarray(wrapped[order].T),
        order,
        starts.astype(np.int64),
        places,
        wraps.astype(np.int32),
        counts,
        np.ceil(reach * counts).astype(np.int64),
        pbc,
        lattice,
        SHORTEST**2,
        float(cutoff) ** 2 + DISTANCE_TOLERANCE,
    )


def _coordinates(positions: Array, cell: Array, pbc: Array) -> tuple[Array, Array]:
    """Returns a full set of axes (3, 3), and atoms along them: 0 to 1 spans a cell or all atoms.

    Along open directions the axes are orthogonal to the others and just longer than the crystal.
    """
    axes = np.array(cell)
    closed = int(pbc.sum())
    axes[~pbc] = np.linalg.svd(cell[pbc])[2][closed:] if closed else np.eye(3)
    fractions = positions @ np.linalg.inv(axes)
    lowest = fractions.min(axis=0)
    length = np.ptp(fractions, axis=0) + 1.0
    fractions = np.where(pbc, fractions, (fractions - lowest) / length)
    axes[~pbc] *= length[~pbc, None]
    return axes, fractions


@_jit
def find(bins: Bins, room: int) -> tuple[Array, Array, Array, Array]:
    """Returns the number of edges of each atom, and all edges as ``write`` takes them.

    Args:
        bins: The crystal.
        room: Number of edges to expect; more are found all the same.
    """
    num_atoms = len(bins.order)
    sizes, seen_offsets = np.zeros(num_atoms, np.int64), np.zeros(num_atoms + 1, np.int64)
    centres, images = np.empty(room, np.int64), np.empty((room, 3), np.int32)
    runs, origins = _room_for_runs(bins)
    near = np.empty(num_atoms + 1, np.int64)
    total = 0
    for atom in range(num_atoms):
        for run in range(_list_runs(bins, atom, runs, origins)):
            number = _inside(bins, runs[run], origins[run], near)
            if total + number > len(centres):
                centres = np.concatenate((centres, np.empty_like(centres), near))
                images = np.concatenate((images, np.empty((len(centres), 3), np.int32)))
            for k in range(number):
                centres[total + k] = near[k]
                sizes[near[k]] += 1
                for axis in range(3):
                    images[total + k, axis] = runs[run, 2 + axis]
            total += number
        seen_offsets[atom + 1] = total
    return sizes, seen_offsets, centres, images


@_jit
def write(
    bins: Bins,
    seen_offsets: Array,
    centres: Array,
    images: Array,
    row_offsets: Array,
    source: Array,
    target: Array,
    shifts: Array,
) -> None:
    """Writes the edges that ``find`` found, sorted by (target, source, shift).

    Args:
        bins: The crystal.
        seen_offsets: First of what each atom sees, (atoms + 1,).
        centres: The atoms it sees, which get an edge from it.
        images: In which image it sees them, counted from wrapped atoms.
        row_offsets: First edge of each centre, the sums of the sizes that ``find`` gives.
        source: Receives the neighbour of each edge.
        target: Receives the centre of each edge.
        shifts: Receives the image of the neighbour, (edges, 3).
    """
    ends = row_offsets[:-1].copy()
    for atom in range(len(ends)):
        for seen in range(seen_offsets[atom], seen_offsets[atom + 1]):
            centre = centres[seen]
            edge = ends[centre]
            ends[centre] += 1
            source[edge], target[edge] = atom, centre
            for axis in range(3):
                wrap = bins.wraps[centre, axis] - bins.wraps[atom, axis]
                shifts[edge, axis] = wrap - images[seen, axis]


@_jit
def count(bins: Bins) -> int:
    """Returns the number of edges."""
    runs, origins = _room_for_runs(bins)
    near = np.empty(len(bins.order) + 1, np.int64)
    total = 0
    for atom in range(len(bins.order)):
        for run in range(_list_runs(bins, atom, runs, origins)):
            total += _inside(bins, runs[run], origins[run], near)
    return total


@_jit
def _room_for_runs(bins: Bins) -> tuple[Array, Array]:
    across = 2 * bins.spans + 1
    most = across[0] * across[1] * (across[2] // bins.counts[2] + 2)
    return np.empty((most, 5), np.int64), np.empty((most, 3))


@_jit
def _list_runs(bins: Bins, atom: int, runs: Array, origins: Array) -> int:
    """Writes runs of candidates, (first, last + 1, image), images in falling order.

    ``origins`` receives the place (Å) from which their wrapped positions are seen.
    """
    number = 0
    a, b, c = bins.places[atom, 0], bins.places[atom, 1], bins.places[atom, 2]
    for i in range(a + bins.spans[0], a - bins.spans[0] - 1, -1):
        image_a = i // bins.counts[0]
        if image_a != 0 and not bins.periodic[0]:
            continue
        for j in range(b + bins.spans[1], b - bins.spans[1] - 1, -1):
            image_b = j // bins.counts[1]
            if image_b != 0 and not bins.periodic[1]:
                continue
            column = (i - image_a * bins.counts[0]) * bins.counts[1] + j - image_b * bins.counts[1]
            stop = c + bins.spans[2] + 1
            while stop > c - bins.spans[2]:
                image_c = (stop - 1) // bins.counts[2]
                start = max(image_c * bins.counts[2], c - bins.spans[2])
                if image_c == 0 or bins.periodic[2]:
                    first = (column - image_c) * bins.counts[2]
                    runs[number, 0] = bins.starts[first + start]
                    runs[number, 1] = bins.starts[first + stop]
                    runs[number, 2], runs[number, 3], runs[number, 4] = image_a, image_b, image_c
                    for e in range(3):
                        origins[number, e] = bins.wrapped[atom, e] - (
                            image_a * bins.lattice[0, e]
                            + image_b * bins.lattice[1, e]
                            + image_c * bins.lattice[2, e]
                        )
                    number += runs[number, 1] > runs[number, 0]
                stop = start
    return number


@_jit
def _inside(bins: Bins, run: Array, origin: Array, near: Array) -> int:
    """Writes the atoms of a run that lie within the cutoff of ``origin``; returns how many."""
    x, y, z = origin[0], origin[1], origin[2]
    number = 0
    for k in range(run[0], run[1]):
        d_x, d_y, d_z = bins.points[0, k] - x, bins.points[1, k] - y, bins.points[2, k] - z
        squared = d_x * d_x + d_y * d_y + d_z * d_z
        near[number] = bins.order[k]
        number += (squared <= bins.high) & (squared > bins.low)
    return number
