"""Numba kernels that find every periodic image of every atom within a radius.

The idea: atoms are wrapped into the cell once. An edge from atom i to the image n of atom j has a
component ``f_j + n_k - f_i`` along lattice vector k, and no vector shorter than ``cutoff`` has one
larger than ``reach_k = cutoff * |g_k|``, with g_k the dual lattice vector. So for each pair the
first image that can matter is ``ceil(f_i - f_j - reach_k)`` and at most ``floor(2 reach_k) + 1``
follow it: a number that is the same for all pairs of a crystal. The images of a pair are therefore
one table of offsets, added to a start that depends on the pair. This holds for any cell, however
sheared, small, long or left-handed, and for atoms anywhere.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

DISTANCE_TOLERANCE = 1e-8
"""Å². A squared distance this much above cutoff² still counts, so that neighbours at exactly the
cutoff are inside whatever the rounding (the same tolerance as pymatgen's)."""

SHORTEST = 0.01
"""Å. Atoms at most this close are taken for the same atom and share no edge."""

REACH_MARGIN = 1e-6
"""Widens the range of images by more than the rounding error of fractional coordinates."""

MAX_IMAGES = 10_000_000
"""Images tried per atom (those of all its neighbours together) before the cell is refused."""

MAX_CELLS_AWAY = 1e8
"""Lattice translations by which an atom may lie outside its cell."""

OK, TOO_MANY_IMAGES, TOO_FAR_AWAY, TOO_SMALL = 0, 1, 2, 3

Arrays = Any  # numba types; see each docstring for shapes

_jit = njit(cache=True, nogil=True, fastmath={"contract"})


@_jit
def _cross(a: Arrays, b: Arrays, out: Arrays) -> None:
    out[0] = a[1] * b[2] - a[2] * b[1]
    out[1] = a[2] * b[0] - a[0] * b[2]
    out[2] = a[0] * b[1] - a[1] * b[0]


@_jit
def _completed(cell: Arrays, pbc: Arrays) -> Arrays:
    """Returns the cell with its non-periodic rows replaced by ones orthogonal to the others."""
    full = cell.copy()
    periodic = int(pbc[0]) + int(pbc[1]) + int(pbc[2])
    if periodic == 0:
        full[:] = np.eye(3)
    for axis in range(3):
        following, last = (axis + 1) % 3, (axis + 2) % 3
        if periodic == 2 and not pbc[axis]:
            _cross(full[following], full[last], full[axis])
        if periodic == 1 and pbc[axis]:
            smallest = np.argmin(np.abs(full[axis]))
            _cross(full[axis], np.eye(3)[smallest], full[following])
            _cross(full[axis], full[following], full[last])
    return full


@_jit
def dual_vectors(cell: Arrays, pbc: Arrays) -> Arrays:
    """Returns g (3, 3) with ``g_k · a_l = δ_kl`` for periodic k and zero rows for the others."""
    full = _completed(cell, pbc)
    dual = np.empty((3, 3))
    for axis in range(3):
        _cross(full[(axis + 1) % 3], full[(axis + 2) % 3], dual[axis])
    volume = np.sum(full[0] * dual[0])
    for axis in range(3):
        if pbc[axis]:
            dual[axis] /= volume
        else:
            dual[axis] = 0.0
    return dual


@_jit
def image_counts(dual: Arrays, cutoff: float) -> tuple[Arrays, Arrays]:
    """Returns the reach along each axis (in lattice vectors) and the images tried, as floats."""
    reach = np.empty(3)
    counts = np.empty(3)
    for axis in range(3):
        reach[axis] = cutoff * math.sqrt(np.sum(dual[axis] ** 2)) + REACH_MARGIN
        counts[axis] = math.floor(2 * reach[axis]) + 1
    return reach, counts


@_jit
def image_table(
    cell: Arrays, reach: Arrays, counts: Arrays, cutoff: float
) -> tuple[Arrays, Arrays]:
    """Returns the offsets that may follow a pair's first image, in lexicographic order.

    Offsets whose parallelepiped of possible edge vectors lies wholly outside the sphere are left
    out. Rows of ``cell`` along non-periodic axes must be zero: the parallelepiped then bounds the
    part of an edge within the periodic plane or line, which is no longer than the edge.

    Returns:
        Cartesian offsets in Å, (3, images), and integer ones, (images, 4), last column zero.
    """
    radius = 0.0
    for second in (-0.5, 0.5):
        for third in (-0.5, 0.5):
            corner = 0.5 * cell[0] + second * cell[1] + third * cell[2]
            radius = max(radius, math.sqrt(np.sum(corner**2)))
    limit = (cutoff + radius + REACH_MARGIN) ** 2
    size = int(counts[0] * counts[1] * counts[2])
    offsets = np.empty((3, size))
    integers = np.zeros((size, 4), np.int32)
    kept = 0
    for a in range(counts[0]):
        for b in range(counts[1]):
            for c in range(counts[2]):
                centre = 0.0
                for e in range(3):
                    offset = a * cell[0, e] + b * cell[1, e] + c * cell[2, e]
                    middle = (
                        offset
                        + (0.5 - reach[0]) * cell[0, e]
                        + (0.5 - reach[1]) * cell[1, e]
                        + (0.5 - reach[2]) * cell[2, e]
                    )
                    offsets[e, kept] = offset
                    centre += middle * middle
                integers[kept, 0], integers[kept, 1], integers[kept, 2] = a, b, c
                kept += centre <= limit
    return offsets[:, :kept].copy(), integers[:kept]


@_jit
def wrap(positions: Arrays, cell: Arrays, dual: Arrays) -> tuple[Arrays, Arrays, Arrays, bool]:
    """Returns fractions (3, atoms), wrapped positions (3, atoms), wraps (atoms, 4), success."""
    num_atoms = len(positions)
    fractions = np.empty((3, num_atoms))
    wrapped = np.empty((3, num_atoms))
    wraps = np.zeros((num_atoms, 4), np.int32)
    for atom in range(num_atoms):
        for axis in range(3):
            fraction = np.sum(positions[atom] * dual[axis])
            whole = math.floor(fraction)
            if not abs(whole) <= MAX_CELLS_AWAY:
                return fractions, wrapped, wraps, False
            fractions[axis, atom] = fraction - whole
            wraps[atom, axis] = whole
        for e in range(3):
            wrapped[e, atom] = (
                positions[atom, e]
                - wraps[atom, 0] * cell[0, e]
                - wraps[atom, 1] * cell[1, e]
                - wraps[atom, 2] * cell[2, e]
            )
    return fractions, wrapped, wraps, True
