"""Numba kernels that walk a batch of crystals and write its edges."""

from __future__ import annotations

import numpy as np
from numba import njit

from epitaxy.graph.images import (
    DISTANCE_TOLERANCE,
    MAX_IMAGES,
    OK,
    SHORTEST,
    TOO_FAR_AWAY,
    TOO_MANY_IMAGES,
    TOO_SMALL,
    Arrays,
    dual_vectors,
    image_counts,
    image_table,
    wrap,
)

_jit = njit(cache=True, nogil=True, fastmath={"contract"})


@_jit
def fill(
    positions: Arrays,
    cells: Arrays,
    pbc: Arrays,
    atom_offsets: Arrays,
    cutoff: float,
    source: Arrays,
    target: Arrays,
    shifts: Arrays,
    row_offsets: Arrays,
) -> tuple[int, int]:
    """Writes all edges with 0.01 Å < d ≤ cutoff, sorted by (target, source, shift).

    Args:
        positions: Å, (atoms, 3), anywhere.
        cells: Å, (graphs, 3, 3).
        pbc: (graphs, 3).
        atom_offsets: (graphs + 1,).
        cutoff: Å.
        source: Receives the neighbour of each edge.
        target: Receives the centre of each edge.
        shifts: Receives the image of the neighbour, flat: three numbers per edge, one to spare.
        row_offsets: Receives the first edge of each centre, (atoms + 1,).

    Returns:
        A status and the crystal it concerns. With ``TOO_SMALL`` nothing written is of use.
    """
    row_offsets[0] = 0
    total = 0
    for graph in range(len(atom_offsets) - 1):
        first, last = atom_offsets[graph], atom_offsets[graph + 1]
        status, total = _fill_crystal(
            positions[first:last],
            cells[graph],
            pbc[graph],
            cutoff,
            first,
            total,
            source,
            target,
            shifts,
            row_offsets[first : last + 1],
        )
        if status != OK:
            return status, graph
    return OK, -1


@_jit
def count(
    positions: Arrays,
    cells: Arrays,
    pbc: Arrays,
    atom_offsets: Arrays,
    cutoff: float,
    totals: Arrays,
) -> tuple[int, int]:
    """Writes the number of edges of each crystal into ``totals``; returns as ``fill`` does."""
    for graph in range(len(atom_offsets) - 1):
        first, last = atom_offsets[graph], atom_offsets[graph + 1]
        status, totals[graph] = _count_crystal(
            positions[first:last], cells[graph], pbc[graph], cutoff
        )
        if status != OK:
            return status, graph
    return OK, -1


@_jit
def _prepare(
    positions: Arrays, cell: Arrays, pbc: Arrays, cutoff: float
) -> tuple[int, Arrays, Arrays, Arrays, Arrays, Arrays, Arrays, Arrays]:
    lattice = cell.copy()
    for axis in range(3):
        if not pbc[axis]:
            lattice[axis] = 0.0
    dual = dual_vectors(lattice, pbc)
    reach, counts = image_counts(dual, cutoff)
    status = OK
    if not counts[0] * counts[1] * counts[2] * len(positions) <= MAX_IMAGES:
        status = TOO_MANY_IMAGES
        counts[:] = 1
    offsets, integers = image_table(lattice, reach, counts, cutoff)
    fractions, wrapped, wraps, inside = wrap(positions, lattice, dual)
    if not inside:
        status = TOO_FAR_AWAY
    return status, lattice, reach, offsets, integers, fractions, wrapped, wraps


@_jit
def _fill_crystal(
    positions: Arrays,
    cell: Arrays,
    pbc: Arrays,
    cutoff: float,
    first: int,
    total: int,
    source: Arrays,
    target: Arrays,
    shifts: Arrays,
    row_offsets: Arrays,
) -> tuple[int, int]:
    status, lattice, reach, offsets, integers, fractions, wrapped, wraps = _prepare(
        positions, cell, pbc, cutoff
    )
    if status != OK:
        return status, total
    num_atoms, num_images = len(positions), offsets.shape[1]
    vectors = np.empty((3, num_atoms))
    images = np.zeros((num_atoms, 4), np.int32)
    inside = np.empty(num_atoms * num_images, np.uint8)
    found = np.empty(num_atoms * num_images + 1, np.int64)
    for atom in range(num_atoms):
        _start_pairs(atom, fractions, wrapped, wraps, lattice, reach, vectors, images)
        _mark(vectors, offsets, cutoff, inside)
        number = _collect(inside, num_atoms, num_images, found)
        if total + number > len(source):
            return TOO_SMALL, total
        _write(
            found[:number],
            first,
            images,
            integers,
            source[total : total + number],
            shifts[3 * total : 3 * (total + number) + 1],
        )
        target[total : total + number] = first + atom
        total += number
        row_offsets[atom + 1] = total
    return OK, total


@_jit
def _count_crystal(positions: Arrays, cell: Arrays, pbc: Arrays, cutoff: float) -> tuple[int, int]:
    status, lattice, reach, offsets, _, fractions, wrapped, wraps = _prepare(
        positions, cell, pbc, cutoff
    )
    if status != OK:
        return status, 0
    num_atoms, num_images = len(positions), offsets.shape[1]
    vectors = np.empty((3, num_atoms))
    images = np.zeros((num_atoms, 4), np.int32)
    inside = np.empty(num_atoms * num_images, np.uint8)
    total = 0
    for atom in range(num_atoms):
        _start_pairs(atom, fractions, wrapped, wraps, lattice, reach, vectors, images)
        _mark(vectors, offsets, cutoff, inside)
        total += np.sum(inside)
    return OK, total


@_jit
def _start_pairs(
    atom: int,
    fractions: Arrays,
    wrapped: Arrays,
    wraps: Arrays,
    lattice: Arrays,
    reach: Arrays,
    vectors: Arrays,
    images: Arrays,
) -> None:
    """Writes, for every neighbour, the first image that can matter and the edge vector to it."""
    f_0, f_1, f_2 = fractions[0], fractions[1], fractions[2]
    x, y, z = wrapped[0], wrapped[1], wrapped[2]
    a_0, a_1, a_2 = f_0[atom] - reach[0], f_1[atom] - reach[1], f_2[atom] - reach[2]
    x_0, y_0, z_0 = x[atom], y[atom], z[atom]
    w_0, w_1, w_2 = wraps[atom, 0], wraps[atom, 1], wraps[atom, 2]
    l_00, l_01, l_02 = lattice[0, 0], lattice[0, 1], lattice[0, 2]
    l_10, l_11, l_12 = lattice[1, 0], lattice[1, 1], lattice[1, 2]
    l_20, l_21, l_22 = lattice[2, 0], lattice[2, 1], lattice[2, 2]
    v_x, v_y, v_z = vectors[0], vectors[1], vectors[2]
    for j in range(len(x)):
        n_0, n_1, n_2 = np.ceil(a_0 - f_0[j]), np.ceil(a_1 - f_1[j]), np.ceil(a_2 - f_2[j])
        v_x[j] = x[j] - x_0 + n_0 * l_00 + n_1 * l_10 + n_2 * l_20
        v_y[j] = y[j] - y_0 + n_0 * l_01 + n_1 * l_11 + n_2 * l_21
        v_z[j] = z[j] - z_0 + n_0 * l_02 + n_1 * l_12 + n_2 * l_22
        images[j, 0] = np.int32(n_0) - wraps[j, 0] + w_0
        images[j, 1] = np.int32(n_1) - wraps[j, 1] + w_1
        images[j, 2] = np.int32(n_2) - wraps[j, 2] + w_2


@_jit
def _mark(vectors: Arrays, offsets: Arrays, cutoff: float, inside: Arrays) -> None:
    """Writes which images are neighbours, the longer of the two loops innermost.

    ``inside`` is (images, atoms) if there are more atoms than images, else (atoms, images), flat.
    """
    num_atoms, num_images = vectors.shape[1], offsets.shape[1]
    low, high = SHORTEST**2, cutoff**2 + DISTANCE_TOLERANCE
    if num_atoms > num_images:
        for image in range(num_images):
            _mark_run(vectors, offsets, image, low, high, inside[image * num_atoms :])
    else:
        for atom in range(num_atoms):
            _mark_run(offsets, vectors, atom, low, high, inside[atom * num_images :])


@_jit
def _mark_run(
    many: Arrays, one: Arrays, index: int, low: float, high: float, inside: Arrays
) -> None:
    x_0, y_0, z_0 = one[0, index], one[1, index], one[2, index]
    x, y, z = many[0], many[1], many[2]
    for k in range(len(x)):
        d_x, d_y, d_z = x[k] + x_0, y[k] + y_0, z[k] + z_0
        squared = d_x * d_x + d_y * d_y + d_z * d_z
        inside[k] = (squared <= high) & (squared > low)


@_jit
def _collect(inside: Arrays, num_atoms: int, num_images: int, found: Arrays) -> int:
    """Writes ``atom << 32 | image`` of every neighbour in order, without branches."""
    by_image = num_atoms > num_images
    step = np.uint64(num_atoms if by_image else 1)
    start = np.uint64(1 if by_image else num_images)
    number = np.uint64(0)
    for atom in range(num_atoms):
        position = np.uint64(atom) * start
        code = atom << 32
        for image in range(num_images):
            found[number] = code + image
            number += np.uint64(inside[position])
            position += step
    return int(number)


@_jit
def _write(
    found: Arrays, first: int, images: Arrays, integers: Arrays, source: Arrays, shifts: Arrays
) -> None:
    for edge in range(len(found)):
        source[edge] = first + (found[edge] >> 32)
    for edge in range(len(found)):
        start = images[np.uint64(found[edge] >> 32)]
        step = integers[np.uint64(found[edge] & 0xFFFFFFFF)]
        shift = shifts[3 * edge : 3 * edge + 4]
        # Four numbers are one vector instruction; the next edge overwrites the fourth.
        for axis in range(4):
            shift[axis] = start[axis] + step[axis]
