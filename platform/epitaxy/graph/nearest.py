"""Numba kernels that keep the nearest neighbours of each atom."""

from __future__ import annotations

import numpy as np
from numba import njit

from epitaxy.graph.periodic import Array

TIE_STEP = 1e-8
"""Å. Distances are compared in whole multiples of this; ties fall to (neighbour, image)."""

_jit = njit(cache=True, nogil=True, fastmath={"contract"})


@_jit
def nearest(
    positions: Array,
    cells: Array,
    graph_index: Array,
    source: Array,
    shifts: Array,
    row_offsets: Array,
    limit: int,
    by_distance: bool,
    chosen: Array,
    last: Array,
) -> Array:
    """Writes the edges of each row that stay, at most ``limit``, and returns how many per row.

    Rows come in (source, shift) order, so among equal distances the first one wins.

    Args:
        positions: Å, (atoms, 3).
        cells: Å, (graphs, 3, 3).
        graph_index: Crystal of each atom, (atoms,).
        source: Neighbour of each edge, (edges,).
        shifts: Its image, (edges, 3).
        row_offsets: First edge of each centre, (atoms + 1,).
        limit: Edges kept per centre.
        by_distance: Whether kept edges are sorted by distance; otherwise they stay in order.
        chosen: Receives indices of edges, row after row, (at least the edges kept,).
        last: Receives the distance of each centre's ``limit``-th neighbour, Å; infinity if it has
            fewer, (atoms,).
    """
    kept = np.empty(len(positions), np.int64)
    keys = np.empty(limit + 1)
    picks = np.empty(limit + 1, np.int64)
    squares = np.empty(0)
    total = 0
    for atom in range(len(positions)):
        start, stop = row_offsets[atom], row_offsets[atom + 1]
        if stop - start > len(squares):
            squares = np.empty(2 * (stop - start))
        number = min(limit, stop - start)
        _squares(positions, cells[graph_index[atom]], atom, source, shifts, start, stop, squares)
        filled = 0
        bound = np.inf
        for k in range(stop - start):
            if squares[k] > bound:
                continue
            key = np.rint(np.sqrt(squares[k]) / TIE_STEP)
            if filled == limit and key >= keys[limit - 1]:
                continue
            filled = _insert(keys, picks, filled, limit, key, start + k)
            if filled == limit:
                bound = ((keys[limit - 1] + 1) * TIE_STEP) ** 2
        last[atom] = keys[limit - 1] * TIE_STEP if filled == limit else np.inf
        for k in range(number):
            chosen[total + k] = picks[k]
        if not by_distance:
            _sort(chosen[total : total + number])
        kept[atom] = number
        total += number
    return kept


@_jit
def nearest_shells(
    positions: Array,
    cells: Array,
    graph_index: Array,
    source: Array,
    shifts: Array,
    row_offsets: Array,
    limit: int,
    width: float,
    chosen: Array,
    last: Array,
) -> Array:
    """Writes the edges of each row no farther than its ``limit``-th nearest plus ``width`` (Å).

    They stay in order. Nothing but distances decides, so neither the numbering of atoms nor the
    choice of cell does. Arguments and result are those of ``nearest``.
    """
    kept = np.empty(len(positions), np.int64)
    lowest = np.empty(limit + 1)
    picks = np.empty(limit + 1, np.int64)
    squares = np.empty(0)
    total = 0
    for atom in range(len(positions)):
        start, stop = row_offsets[atom], row_offsets[atom + 1]
        if stop - start > len(squares):
            squares = np.empty(2 * (stop - start))
        _squares(positions, cells[graph_index[atom]], atom, source, shifts, start, stop, squares)
        filled = 0
        for k in range(stop - start):
            if filled < limit or squares[k] < lowest[limit - 1]:
                filled = _insert(lowest, picks, filled, limit, squares[k], k)
        last[atom] = np.sqrt(lowest[limit - 1]) if filled == limit else np.inf
        farthest = (last[atom] + width) ** 2
        before = total
        for k in range(stop - start):
            chosen[total] = start + k
            total += squares[k] <= farthest
        kept[atom] = total - before
    return kept


@_jit
def nearest_images(
    positions: Array,
    cells: Array,
    graph_index: Array,
    source: Array,
    shifts: Array,
    row_offsets: Array,
    chosen: Array,
) -> Array:
    """Writes, of the edges between each pair of different atoms, the shortest.

    Equal ones fall to the lowest image. Arguments and result are those of ``nearest``.
    """
    kept = np.zeros(len(positions), np.int64)
    squares = np.empty(0)
    total = 0
    for atom in range(len(positions)):
        start, stop = row_offsets[atom], row_offsets[atom + 1]
        if stop - start > len(squares):
            squares = np.empty(2 * (stop - start))
        _squares(positions, cells[graph_index[atom]], atom, source, shifts, start, stop, squares)
        shortest, previous = np.inf, -1
        for k in range(stop - start):
            other = source[start + k]
            key = np.rint(np.sqrt(squares[k]) / TIE_STEP)
            if other == atom or (other == previous and key >= shortest):
                continue
            total += other != previous
            kept[atom] += other != previous
            chosen[total - 1] = start + k
            shortest, previous = key, other
    return kept


@_jit
def _squares(
    positions: Array,
    cell: Array,
    atom: int,
    source: Array,
    shifts: Array,
    start: int,
    stop: int,
    squares: Array,
) -> None:
    """Writes the squared length of each edge of a row, Å²."""
    x, y, z = positions[atom, 0], positions[atom, 1], positions[atom, 2]
    for k in range(stop - start):
        a, b, c = shifts[start + k, 0], shifts[start + k, 1], shifts[start + k, 2]
        j = source[start + k]
        d_x = positions[j, 0] - x + a * cell[0, 0] + b * cell[1, 0] + c * cell[2, 0]
        d_y = positions[j, 1] - y + a * cell[0, 1] + b * cell[1, 1] + c * cell[2, 1]
        d_z = positions[j, 2] - z + a * cell[0, 2] + b * cell[1, 2] + c * cell[2, 2]
        squares[k] = d_x * d_x + d_y * d_y + d_z * d_z


@_jit
def _insert(keys: Array, picks: Array, filled: int, limit: int, key: float, pick: int) -> int:
    """Puts a key among the ``limit`` smallest, behind its equals; returns how many there are."""
    place = min(filled, limit - 1)
    while place > 0 and keys[place - 1] > key:
        keys[place], picks[place] = keys[place - 1], picks[place - 1]
        place -= 1
    keys[place], picks[place] = key, pick
    return min(filled + 1, limit)


@_jit
def _sort(values: Array) -> None:
    """Insertion sort: rows that exceed a limit are few and short."""
    for k in range(1, len(values)):
        value, place = values[k], k
        while place > 0 and values[place - 1] > value:
            values[place] = values[place - 1]
            place -= 1
        values[place] = value
