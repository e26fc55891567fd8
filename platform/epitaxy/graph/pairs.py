"""Numba kernels on finished edges: the edge that runs back, and pairs of edges that meet."""

from __future__ import annotations

import numpy as np
from numba import njit

from epitaxy.graph.periodic import Array

_jit = njit(cache=True, nogil=True)


@_jit
def reverse_index(source: Array, shifts: Array, row_offsets: Array, reverse: Array) -> bool:
    """Writes, for each edge (j → i, n), the index of (i → j, -n); returns whether all have one.

    Edges are sorted by (target, source, shift). The images of one pair of atoms are a block of a
    row, and run the other way round in the other atom's row; blocks of a row are met in the order
    of their sources, so one cursor per row finds each without a search.

    Args:
        source: Neighbour of each edge, (edges,).
        shifts: Its image, (edges, 3).
        row_offsets: First edge of each centre, (atoms + 1,).
        reverse: Receives the indices, (edges,).
    """
    cursors = row_offsets[:-1].copy()
    for atom in range(len(cursors)):
        edge = row_offsets[atom]
        while edge < row_offsets[atom + 1]:
            other, stop = source[edge], edge + 1
            while stop < row_offsets[atom + 1] and source[stop] == other:
                stop += 1
            block = cursors[other]
            if block + stop - edge > row_offsets[other + 1]:
                return False
            for k in range(stop - edge):
                back = block + stop - edge - 1 - k
                if source[back] != atom or not _opposite(shifts[edge + k], shifts[back]):
                    return False
                reverse[edge + k] = back
            cursors[other] = block + stop - edge
            edge = stop
    return True


@_jit
def _opposite(shift: Array, other: Array) -> bool:
    return shift[0] == -other[0] and shift[1] == -other[1] and shift[2] == -other[2]


@_jit
def count_meetings(source: Array, target: Array, row_offsets: Array) -> int:
    """Returns the number of pairs that ``write_meetings`` writes."""
    total = 0
    for edge in range(len(source)):
        middle = source[edge]
        total += row_offsets[middle + 1] - row_offsets[middle]
        total -= middle == target[edge]
    return total


@_jit
def write_meetings(
    source: Array, target: Array, row_offsets: Array, first: Array, second: Array
) -> None:
    """Writes all pairs of different edges a → b and b → c, sorted by (second, first).

    Args:
        source: Tail of each edge, (edges,).
        target: Its head; edges are sorted by it, (edges,).
        row_offsets: First edge into each atom, (atoms + 1,).
        first: Receives the edge a → b, (pairs,).
        second: Receives the edge b → c, (pairs,).
    """
    pair = 0
    for edge in range(len(source)):
        middle = source[edge]
        start, stop = row_offsets[middle], row_offsets[middle + 1]
        if middle == target[edge]:  # an edge does not meet itself
            for other in range(start, stop):
                if other != edge:
                    first[pair], second[pair] = other, edge
                    pair += 1
        else:
            for other in range(start, stop):
                first[pair] = other
                second[pair] = edge
                pair += 1


@_jit
def complete(atom_offsets: Array, source: Array, target: Array) -> None:
    """Writes all ordered pairs of atoms of each crystal, each atom with itself too."""
    edge = 0
    for graph in range(len(atom_offsets) - 1):
        for centre in range(atom_offsets[graph], atom_offsets[graph + 1]):
            for neighbour in range(atom_offsets[graph], atom_offsets[graph + 1]):
                source[edge], target[edge] = neighbour, centre
                edge += 1


@_jit
def bond_counts(
    source: Array, target: Array, reverse: Array, kept: Array, repeat_self: bool, repeat_all: bool
) -> Array:
    """Returns how often each edge occurs when every kept one is a bond in both directions.

    Args:
        source: Neighbour of each edge, (edges,).
        target: Its centre, (edges,).
        reverse: The edge that runs back, (edges,).
        kept: Whether the centre chose the edge, (edges,).
        repeat_self: Whether an atom's bond to its own image, kept as n and as -n, counts twice.
        repeat_all: Whether every bond that both of its atoms chose does.
    """
    counts = np.empty(len(source), np.int64)
    for edge in range(len(source)):
        both = kept[edge] and kept[reverse[edge]]
        twice = both and (repeat_all or (repeat_self and source[edge] == target[edge]))
        counts[edge] = 2 if twice else int(kept[edge] or kept[reverse[edge]])
    return counts
