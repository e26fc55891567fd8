"""Numba kernels on finished edges: the edge that runs back, and pairs of edges that meet."""

from __future__ import annotations

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
def count_meetings(source: Array, target: Array, row_offsets: Array, with_itself: bool) -> int:
    """Returns the number of pairs that ``write_meetings`` writes."""
    total = 0
    for edge in range(len(source)):
        middle = source[edge]
        total += row_offsets[middle + 1] - row_offsets[middle]
        total -= middle == target[edge] and not with_itself
    return total


@_jit
def write_meetings(
    source: Array,
    target: Array,
    row_offsets: Array,
    with_itself: bool,
    first: Array,
    second: Array,
) -> None:
    """Writes all pairs of edges a → b and b → c, sorted by (second, first).

    Args:
        source: Tail of each edge, (edges,).
        target: Its head; edges are sorted by it, (edges,).
        row_offsets: First edge into each atom, (atoms + 1,).
        with_itself: Whether an edge from an atom to its own image meets itself.
        first: Receives the edge a → b, (pairs,).
        second: Receives the edge b → c, (pairs,).
    """
    pair = 0
    for edge in range(len(source)):
        middle = source[edge]
        start, stop = row_offsets[middle], row_offsets[middle + 1]
        if middle == target[edge] and not with_itself:
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
def count_bonds(source: Array, target: Array, shifts: Array, row_offsets: Array) -> Array:
    """Returns the edges into each atom once every edge runs both ways, (atoms,).

    Edges are those of ``write_bonds``.
    """
    sizes = row_offsets[1:] - row_offsets[:-1]
    for edge in range(len(source)):
        if not _runs_back(source, target, shifts, row_offsets, edge):
            sizes[source[edge]] += 1
    return sizes


@_jit
def write_bonds(
    source: Array,
    target: Array,
    shifts: Array,
    row_offsets: Array,
    new_offsets: Array,
    new_source: Array,
    new_target: Array,
    new_shifts: Array,
    mutual: Array,
) -> None:
    """Writes every edge and the one that runs back from it, each once, in canonical order.

    Args:
        source: Neighbour of each edge, (edges,).
        target: Its centre, (edges,); edges are sorted by (target, source, shift).
        shifts: Image of the neighbour, (edges, 3).
        row_offsets: First edge of each centre, (atoms + 1,).
        new_offsets: First edge of each centre of the result, (atoms + 1,).
        new_source: Receives the neighbours.
        new_target: Receives the centres.
        new_shifts: Receives the images.
        mutual: Receives whether both ends had the edge.
    """
    ends = new_offsets[:-1].copy()
    for edge in range(len(source)):
        both = _runs_back(source, target, shifts, row_offsets, edge)
        atom, other = target[edge], source[edge]
        place = ends[atom]
        ends[atom] += 1
        new_source[place], new_target[place], mutual[place] = other, atom, both
        for axis in range(3):
            new_shifts[place, axis] = shifts[edge, axis]
        if not both:
            place = ends[other]
            ends[other] += 1
            new_source[place], new_target[place], mutual[place] = atom, other, False
            for axis in range(3):
                new_shifts[place, axis] = -shifts[edge, axis]
    for atom in range(len(ends)):
        row = slice(new_offsets[atom], new_offsets[atom + 1])
        _sort_row(new_source[row], new_shifts[row], mutual[row])


@_jit
def _runs_back(source: Array, target: Array, shifts: Array, row_offsets: Array, edge: int) -> bool:
    for back in range(row_offsets[source[edge]], row_offsets[source[edge] + 1]):
        if source[back] == target[edge] and _opposite(shifts[edge], shifts[back]):
            return True
    return False


@_jit
def _sort_row(source: Array, shifts: Array, mutual: Array) -> None:
    """Insertion sort by (source, shift): rows are short and nearly in order."""
    for k in range(1, len(source)):
        place = k
        while place > 0 and _before(source, shifts, place, place - 1):
            low, high = place - 1, place
            source[low], source[high] = source[high], source[low]
            mutual[low], mutual[high] = mutual[high], mutual[low]
            for axis in range(3):
                shifts[low, axis], shifts[high, axis] = shifts[high, axis], shifts[low, axis]
            place -= 1


@_jit
def _before(source: Array, shifts: Array, one: int, other: int) -> bool:
    if source[one] != source[other]:
        return source[one] < source[other]
    for axis in range(3):
        if shifts[one, axis] != shifts[other, axis]:
            return shifts[one, axis] < shifts[other, axis]
    return False
