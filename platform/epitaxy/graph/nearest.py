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
    """
    kept = np.empty(len(positions), np.int64)
    keys = np.empty(limit + 1)
    picks = np.empty(limit + 1, np.int64)
    total = 0
    for atom in range(len(positions)):
        start, stop = row_offsets[atom], row_offsets[atom + 1]
        number = min(limit, stop - start)
        whole = stop - start == number and not by_distance
        if not whole:
            cell = cells[graph_index[atom]]
            _select(positions, cell, atom, source, shifts, start, stop, limit, keys, picks)
        for k in range(number):
            chosen[total + k] = start + k if whole else picks[k]
        if not (whole or by_distance):
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
) -> Array:
    """Writes the edges of each row no farther than its ``limit``-th nearest plus ``width`` (Å).

    They stay in order. Nothing but distances decides, so neither the numbering of atoms nor the
    choice of cell does. Arguments and result are those of ``nearest``.
    """
    kept = np.empty(len(positions), np.int64)
    lowest = np.empty(limit)
    distances = np.empty(0)
    total = 0
    for atom in range(len(positions)):
        start, stop = row_offsets[atom], row_offsets[atom + 1]
        if stop - start > len(distances):
            distances = np.empty(2 * (stop - start))
        cell = cells[graph_index[atom]]
        filled = 0
        for edge in range(start, stop):
            distance = _distance(positions, cell, atom, source[edge], shifts, edge)
            distances[edge - start] = distance
            if filled == limit and distance >= lowest[limit - 1]:
                continue
            place = min(filled, limit - 1)
            while place > 0 and lowest[place - 1] > distance:
                lowest[place] = lowest[place - 1]
                place -= 1
            lowest[place] = distance
            filled = min(filled + 1, limit)
        last = lowest[limit - 1] + width if filled == limit else np.inf
        before = total
        for edge in range(start, stop):
            chosen[total] = edge
            total += distances[edge - start] <= last
        kept[atom] = total - before
    return kept


@_jit
def _distance(
    positions: Array, cell: Array, centre: int, neighbour: int, shifts: Array, edge: int
) -> float:
    squared = 0.0
    for e in range(3):
        component = positions[neighbour, e] - positions[centre, e]
        for axis in range(3):
            component += shifts[edge, axis] * cell[axis, e]
        squared += component * component
    return np.sqrt(squared)


@_jit
def _sort(values: Array) -> None:
    """Insertion sort: rows that exceed a limit are few and short."""
    for k in range(1, len(values)):
        value, place = values[k], k
        while place > 0 and values[place - 1] > value:
            values[place] = values[place - 1]
            place -= 1
        values[place] = value


@_jit
def _select(
    positions: Array,
    cell: Array,
    atom: int,
    source: Array,
    shifts: Array,
    start: int,
    stop: int,
    limit: int,
    keys: Array,
    picks: Array,
) -> None:
    """Keeps the ``limit`` smallest keys seen so far in order, later equals behind earlier ones."""
    filled = 0
    for edge in range(start, stop):
        distance = _distance(positions, cell, atom, source[edge], shifts, edge)
        key = np.rint(distance / TIE_STEP)
        if filled == limit and key >= keys[limit - 1]:
            continue
        place = min(filled, limit - 1)
        while place > 0 and keys[place - 1] > key:
            keys[place], picks[place] = keys[place - 1], picks[place - 1]
            place -= 1
        keys[place], picks[place] = key, edge
        filled = min(filled + 1, limit)
