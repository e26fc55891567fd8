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
        squared = 0.0
        for e in range(3):
            component = positions[source[edge], e] - positions[atom, e]
            for axis in range(3):
                component += shifts[edge, axis] * cell[axis, e]
            squared += component * component
        key = np.rint(np.sqrt(squared) / TIE_STEP)
        if filled == limit and key >= keys[limit - 1]:
            continue
        place = min(filled, limit - 1)
        while place > 0 and keys[place - 1] > key:
            keys[place], picks[place] = keys[place - 1], picks[place - 1]
            place -= 1
        keys[place], picks[place] = key, edge
        filled = min(filled + 1, limit)
