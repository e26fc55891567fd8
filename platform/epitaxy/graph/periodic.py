"""Numba kernels that find every periodic image of every atom within a radius.

The idea: atoms are wrapped into the cell once. An edge from atom i to the image n of atom j has a
component ``f_j + n_k - f_i`` along lattice vector k, and no vector shorter than ``cutoff`` has one
larger than ``reach_k = cutoff * |g_k|``, with g_k the dual lattice vector. So for each pair the
first image that can matter is ``ceil(f_i - f_j - reach_k)`` and at most ``floor(2 reach_k) + 1``
follow it: a number that is the same for all pairs of a crystal. The images of a pair are therefore
one table of steps, added to a start that depends on the pair. This holds for any cell, however
sheared, small, long or left-handed, and for atoms anywhere.

These kernels share a file because numba's cache notices changes of a kernel's own file only:
kernels elsewhere (``binned``, ``nearest``, ``pairs``) use nothing of this one.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

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

_LANES = 16
"""Inner loops run over multiples of this, so that vector instructions leave no remainder."""

_NOWHERE = 1e30
"""Å. Coordinate of the fill."""

Array = Any  # of numpy outside, of numba inside a kernel; docstrings give shapes

_jit = njit(cache=True, nogil=True, fastmath={"contract"})


class _Search(NamedTuple):
    """One crystal made ready; ``lanes`` are its atoms or images rounded up to ``_LANES``.

    ``lattice`` is the cell with zero rows along non-periodic axes, ``steps`` the table of images
    that may follow a pair's first one, (images, 4), and ``offsets`` the same in Å, (3, lanes).
    ``fractions`` and ``wrapped`` (Å) are (3, lanes), ``wraps`` (atoms, 4).
    """

    lattice: Array
    reach: Array
    steps: Array
    offsets: Array
    fractions: Array
    wrapped: Array
    wraps: Array


@_jit
def fill(
    positions: Array,
    cells: Array,
    pbc: Array,
    atom_offsets: Array,
    cutoffs: Array,
    source: Array,
    target: Array,
    shifts: Array,
    row_offsets: Array,
) -> tuple[int, int]:
    """Writes all edges with 0.01 Å < d ≤ a crystal's cutoff, sorted by (target, source, shift).

    Args:
        positions: Å, (atoms, 3), anywhere.
        cells: Å, (graphs, 3, 3).
        pbc: (graphs, 3).
        atom_offsets: (graphs + 1,).
        cutoffs: Of each crystal, Å, (graphs,).
        source: Receives the neighbour of each edge.
        target: Receives the centre of each edge.
        shifts: Receives the image of the neighbour, flat: three numbers per edge, one to spare.
        row_offsets: Receives the first edge of each centre, (atoms + 1,).

    Returns:
        A status and the crystal it concerns. With ``TOO_SMALL`` nothing written is of use.
    """
    row_offsets[0] = 0
    for graph in range(len(atom_offsets) - 1):
        first, last = atom_offsets[graph], atom_offsets[graph + 1]
        status, search = _prepare(positions[first:last], cells[graph], pbc[graph], cutoffs[graph])
        if status == OK:
            rows = row_offsets[first : last + 1]
            status = _fill_crystal(search, cutoffs[graph], first, source, target, shifts, rows)
        if status != OK:
            return status, graph
    return OK, -1


@_jit
def count(
    positions: Array, cells: Array, pbc: Array, atom_offsets: Array, cutoffs: Array, totals: Array
) -> tuple[int, int]:
    """Writes the number of edges of each crystal into ``totals``; returns as ``fill`` does."""
    for graph in range(len(atom_offsets) - 1):
        first, last = atom_offsets[graph], atom_offsets[graph + 1]
        status, search = _prepare(positions[first:last], cells[graph], pbc[graph], cutoffs[graph])
        if status != OK:
            return status, graph
        num_atoms = len(search.wraps)
        images, vectors = np.empty_like(search.fractions), np.empty_like(search.wrapped)
        inside, _, _ = _inside_table(search)
        for atom in range(num_atoms):
            _start_pairs(search, atom, images, vectors)
            _mark(search, vectors, cutoffs[graph], inside)
            totals[graph] += np.sum(inside)
    return OK, -1


@_jit
def _fill_crystal(
    search: _Search,
    cutoff: float,
    first: int,
    source: Array,
    target: Array,
    shifts: Array,
    row_offsets: Array,
) -> int:
    num_atoms, num_images = len(search.wraps), len(search.steps)
    images, vectors = np.empty_like(search.fractions), np.empty_like(search.wrapped)
    starts = np.zeros((num_atoms, 4), np.int32)
    inside, atom_stride, image_stride = _inside_table(search)
    found = np.empty(num_atoms * num_images + 1, np.int64)
    start = row_offsets[0]
    for atom in range(num_atoms):
        _start_pairs(search, atom, images, vectors)
        _mark(search, vectors, cutoff, inside)
        stop = start + _collect(inside, atom_stride, image_stride, num_atoms, num_images, found)
        if stop > len(source):
            return TOO_SMALL
        for j in range(num_atoms):
            for axis in range(3):
                wrap = search.wraps[atom, axis] - search.wraps[j, axis]
                starts[j, axis] = np.int32(images[axis, j]) + wrap
        _write(found, starts, search.steps, first, source[start:stop], shifts[3 * start :])
        target[start:stop] = first + atom
        row_offsets[atom + 1] = stop
        start = stop
    return OK


@_jit
def _prepare(positions: Array, cell: Array, pbc: Array, cutoff: float) -> tuple[int, _Search]:
    lattice = np.zeros((3, 3))
    for axis in range(3):
        for e in range(3):
            lattice[axis, e] = cell[axis, e] if pbc[axis] else 0.0
    dual = _dual_vectors(lattice, pbc)
    reach, counts = np.empty(3), np.empty(3)
    for axis in range(3):
        reach[axis] = cutoff * math.sqrt(_dot(dual[axis], dual[axis])) + REACH_MARGIN
        counts[axis] = np.floor(2 * reach[axis]) + 1
    status = OK
    if not counts[0] * counts[1] * counts[2] * len(positions) <= MAX_IMAGES:
        status = TOO_MANY_IMAGES
        counts = np.ones(3)
    steps, offsets = _image_table(lattice, reach, counts, cutoff)
    fractions, wrapped, wraps, near = _wrap(positions, lattice, dual)
    if not near:
        status = TOO_FAR_AWAY
    return status, _Search(lattice, reach, steps, offsets, fractions, wrapped, wraps)


@_jit
def _dot(a: Array, b: Array) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@_jit
def _cross(a: Array, b: Array, out: Array) -> None:
    out[0] = a[1] * b[2] - a[2] * b[1]
    out[1] = a[2] * b[0] - a[0] * b[2]
    out[2] = a[0] * b[1] - a[1] * b[0]


@_jit
def _dual_vectors(lattice: Array, pbc: Array) -> Array:
    """Returns g (3, 3) with ``g_k · a_l = δ_kl`` for periodic k and zero rows for the others."""
    full = lattice.copy()
    periodic = int(pbc[0]) + int(pbc[1]) + int(pbc[2])
    for axis in range(3):
        # Non-periodic rows become any vectors orthogonal to the others.
        following, last = full[(axis + 1) % 3], full[(axis + 2) % 3]
        if periodic == 0:
            full[axis, axis] = 1.0
        elif periodic == 1 and pbc[axis]:
            following[_smallest(full[axis])] = 1.0
            _cross(full[axis], following, last)
            _cross(last, full[axis], following)
        elif periodic == 2 and not pbc[axis]:
            _cross(following, last, full[axis])
    dual = np.zeros((3, 3))
    for axis in range(3):
        if pbc[axis]:
            _cross(full[(axis + 1) % 3], full[(axis + 2) % 3], dual[axis])
            volume = _dot(full[axis], dual[axis])
            for e in range(3):
                dual[axis, e] /= volume
    return dual


@_jit
def _smallest(vector: Array) -> int:
    x, y, z = abs(vector[0]), abs(vector[1]), abs(vector[2])
    if x <= y and x <= z:
        return 0
    return 1 if y <= z else 2


@_jit
def _image_table(lattice: Array, reach: Array, counts: Array, cutoff: float) -> tuple[Array, Array]:
    """Returns the images that may follow a pair's first one, in lexicographic order, twice.

    Those whose parallelepiped of possible edge vectors lies wholly outside the sphere are left
    out. (Along non-periodic axes the lattice is zero: what is bounded is the part of an edge within
    the periodic plane or line, which is no longer than the edge.)
    """
    corner, middle = np.empty(3), np.empty(3)
    radius = 0.0
    for second in (-0.5, 0.5):
        for third in (-0.5, 0.5):
            _combine(0.5, second, third, lattice, corner)
            radius = max(radius, math.sqrt(_dot(corner, corner)))
    limit = (cutoff + radius + REACH_MARGIN) ** 2
    size = int(counts[0] * counts[1] * counts[2])
    steps = np.zeros((size, 4), np.int32)
    offsets = np.empty((3, size))
    kept = 0
    for a in range(counts[0]):
        for b in range(counts[1]):
            for c in range(counts[2]):
                _combine(
                    a + 0.5 - reach[0], b + 0.5 - reach[1], c + 0.5 - reach[2], lattice, middle
                )
                _combine(a, b, c, lattice, corner)
                for axis in range(3):
                    offsets[axis, kept] = corner[axis]
                steps[kept, 0], steps[kept, 1], steps[kept, 2] = a, b, c
                kept += _dot(middle, middle) <= limit
    trimmed = _nowhere(kept)
    for e in range(3):
        for image in range(kept):
            trimmed[e, image] = offsets[e, image]
    return steps[:kept], trimmed


@_jit
def _combine(a: float, b: float, c: float, lattice: Array, out: Array) -> None:
    for e in range(3):
        out[e] = a * lattice[0, e] + b * lattice[1, e] + c * lattice[2, e]


@_jit
def _nowhere(number: int) -> Array:
    """Returns as many points as ``number``, rounded up to whole ``_LANES``, (3, lanes)."""
    points = np.empty((3, (number + _LANES - 1) // _LANES * _LANES))
    for e in range(3):
        for lane in range(points.shape[1]):
            points[e, lane] = _NOWHERE
    return points


@_jit
def _wrap(positions: Array, lattice: Array, dual: Array) -> tuple[Array, Array, Array, bool]:
    """Returns fractions, wrapped positions and wraps as ``_Search`` has them, and success."""
    num_atoms = len(positions)
    wrapped = _nowhere(num_atoms)
    fractions = np.zeros_like(wrapped)
    wraps = np.zeros((num_atoms, 4), np.int32)
    near = True
    for atom in range(num_atoms):
        for e in range(3):
            wrapped[e, atom] = positions[atom, e]
        for axis in range(3):
            fraction = _dot(positions[atom], dual[axis])
            whole = np.floor(fraction)
            near &= abs(whole) <= MAX_CELLS_AWAY
            fractions[axis, atom] = fraction - whole
            wraps[atom, axis] = np.int32(whole)
            for e in range(3):
                wrapped[e, atom] -= whole * lattice[axis, e]
    return fractions, wrapped, wraps, near


@_jit
def _start_pairs(search: _Search, atom: int, images: Array, vectors: Array) -> None:
    """Writes, for every neighbour, the first image that can matter and the edge vector to it.

    Several short loops, because a compiler does not vectorise one that touches many arrays.
    """
    for axis in range(3):
        fraction = search.fractions[axis]
        image = images[axis]
        lowest = fraction[atom] - search.reach[axis]
        for j in range(len(fraction)):
            image[j] = np.ceil(lowest - fraction[j])
    n_0, n_1, n_2 = images[0], images[1], images[2]
    for e in range(3):
        x = search.wrapped[e]
        vector = vectors[e]
        own = x[atom]
        l_0, l_1, l_2 = search.lattice[0, e], search.lattice[1, e], search.lattice[2, e]
        for j in range(len(x)):
            vector[j] = x[j] - own + n_0[j] * l_0 + n_1[j] * l_1 + n_2[j] * l_2


@_jit
def _inside_table(search: _Search) -> tuple[Array, int, int]:
    """Returns room for one flag per (atom, image), flat, and the strides of both.

    The loop that wastes less on fill is the inner one.
    """
    num_atoms, num_images = len(search.wraps), len(search.steps)
    atom_lanes, image_lanes = search.wrapped.shape[1], search.offsets.shape[1]
    if atom_lanes * num_images <= image_lanes * num_atoms:
        return np.empty(atom_lanes * num_images, np.uint8), 1, atom_lanes
    return np.empty(image_lanes * num_atoms, np.uint8), image_lanes, 1


@_jit
def _mark(search: _Search, vectors: Array, cutoff: float, inside: Array) -> None:
    """Flags which images of which atoms are neighbours."""
    if len(inside) == vectors.shape[1] * len(search.steps):
        many, one, number = vectors, search.offsets, len(search.steps)
    else:
        many, one, number = search.offsets, vectors, len(search.wraps)
    low, high = SHORTEST**2, cutoff**2 + DISTANCE_TOLERANCE
    x, y, z = many[0], many[1], many[2]
    lanes = len(x)
    for index in range(number):
        x_0, y_0, z_0 = one[0, index], one[1, index], one[2, index]
        flags = inside[index * lanes : (index + 1) * lanes]
        for k in range(lanes):
            d_x, d_y, d_z = x[k] + x_0, y[k] + y_0, z[k] + z_0
            squared = d_x * d_x + d_y * d_y + d_z * d_z
            flags[k] = (squared <= high) & (squared > low)


@_jit
def _collect(
    inside: Array,
    atom_stride: int,
    image_stride: int,
    num_atoms: int,
    num_images: int,
    found: Array,
) -> int:
    """Writes ``atom << 32 | image`` of every neighbour in order, without branches."""
    # Unsigned, because numba then leaves out the test for negative indices.
    number, step = np.uint64(0), np.uint64(image_stride)
    for atom in range(num_atoms):
        position = np.uint64(atom * atom_stride)
        code = atom << 32
        for image in range(num_images):
            found[number] = code + image
            number += np.uint64(inside[position])
            position += step
    return int(number)


@_jit
def _write(
    found: Array, starts: Array, steps: Array, first: int, source: Array, shifts: Array
) -> None:
    for edge in range(len(source)):
        source[edge] = first + (found[edge] >> 32)
    for edge in range(len(source)):
        start = starts[np.uint64(found[edge] >> 32)]
        step = steps[np.uint64(found[edge] & 0xFFFFFFFF)]
        shift = shifts[3 * edge : 3 * edge + 4]
        # Four numbers are one vector instruction; the next edge overwrites the fourth.
        for axis in range(4):
            shift[axis] = start[axis] + step[axis]
