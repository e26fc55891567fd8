"""All edges within a radius in a crystal of thousands of atoms, in time proportional to its edges.

Atoms are sorted into bins along the lattice vectors; those within the cutoff of an atom lie in its
own bin or at most ``spans`` bins away, where bins beyond the last one are those of the next image.
Bins along the last axis are neighbours in memory, so the candidates of an atom are a few dozen runs
of atoms.

Edges are found centre by centre and written back to front: that of neighbour j seen from atom i
becomes the edge from i in the row of j. As i rises, so do the sources in every row, and images of a
pair are met in falling order, so that rows come out sorted without a sort.

These kernels call none of another file; see ``periodic`` for why.
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

LARGE = 1200
"""Atoms from which on bins are faster than trying all pairs."""

_BINS_PER_CUTOFF = 2
_BINS_PER_ATOM = 2

_jit = njit(cache=True, nogil=True, fastmath={"contract"})


class Bins(NamedTuple):
    """One crystal sorted into bins; ``lattice`` is the cell with zero rows along open axes.

    ``wrapped`` are the atoms moved into the cell, Å, (atoms, 3), ``points`` the same in order of
    bins, (3, atoms), and ``order`` their numbers; ``starts`` is the first of each bin, ``places``
    (atoms, 3) the bin of each atom along each axis, ``wraps`` (atoms, 3) the cell it was in,
    ``counts`` and ``spans`` (3,) the number of bins and how many the cutoff reaches across,
    ``periodic`` (3,) whether bins repeat.
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
    counts = np.maximum(_BINS_PER_CUTOFF / reach, 1.0)
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
def count(bins: Bins, cutoff: float) -> Array:
    """Returns the number of edges in the row of each atom, (atoms,)."""
    num_atoms = len(bins.order)
    sizes = np.zeros(num_atoms, np.int64)
    runs, origins = _room_for_runs(bins)
    flags = np.empty(num_atoms, np.uint8)
    for atom in range(num_atoms):
        for run in range(_list_runs(bins, atom, runs, origins)):
            start, stop = runs[run, 0], runs[run, 1]
            _mark(bins.points, start, stop, origins[run], cutoff, flags)
            for k in range(stop - start):
                sizes[start + k] += flags[k]
    in_order = np.empty(num_atoms, np.int64)
    for place in range(num_atoms):
        in_order[bins.order[place]] = sizes[place]
    return in_order


@_jit
def fill(
    bins: Bins, cutoff: float, row_offsets: Array, source: Array, target: Array, shifts: Array
) -> None:
    """Writes all edges with 0.01 Å < d ≤ cutoff, sorted by (target, source, shift).

    Args:
        bins: The crystal.
        cutoff: Å.
        row_offsets: First edge of each centre, from ``count``, (atoms + 1,).
        source: Receives the neighbour of each edge.
        target: Receives the centre of each edge.
        shifts: Receives the image of the neighbour, (edges, 3).
    """
    num_atoms = len(bins.order)
    ends = row_offsets[:-1].copy()
    runs, origins = _room_for_runs(bins)
    flags = np.empty(num_atoms, np.uint8)
    found = np.empty(num_atoms + 1, np.int64)
    for atom in range(num_atoms):
        for run in range(_list_runs(bins, atom, runs, origins)):
            start, stop = runs[run, 0], runs[run, 1]
            _mark(bins.points, start, stop, origins[run], cutoff, flags)
            near = 0
            for k in range(stop - start):
                found[near] = bins.order[start + k]
                near += flags[k]
            for k in range(near):
                centre = found[k]
                edge = ends[centre]
                ends[centre] += 1
                source[edge], target[edge] = atom, centre
                for axis in range(3):
                    wrap = bins.wraps[centre, axis] - bins.wraps[atom, axis]
                    shifts[edge, axis] = wrap - runs[run, 2 + axis]


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
def _mark(points: Array, start: int, stop: int, origin: Array, cutoff: float, flags: Array) -> None:
    """Flags which points of a run lie within the cutoff of ``origin``."""
    low, high = SHORTEST**2, cutoff**2 + DISTANCE_TOLERANCE
    x_0, y_0, z_0 = origin[0], origin[1], origin[2]
    x, y, z = points[0, start:stop], points[1, start:stop], points[2, start:stop]
    for k in range(len(x)):
        d_x, d_y, d_z = x[k] - x_0, y[k] - y_0, z[k] - z_0
        squared = d_x * d_x + d_y * d_y + d_z * d_z
        flags[k] = (squared <= high) & (squared > low)
