"""Graphs of a whole batch in one call, as the arrays a batch is made of.

An edge runs from a neighbour (``source``) to a centre (``target``); every periodic image within the
cutoff is one edge, periodic images of the centre itself included. Neighbours at exactly the cutoff
are inside (within 1e-8 Å² of its square, pymatgen's tolerance), atoms at most 0.01 Å apart share no
edge. The work is O(atoms² · images) per crystal, which suits cells of up to a few thousand atoms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64

from epitaxy.graph import periodic
from epitaxy.graph.nearest import nearest, nearest_shells
from epitaxy.graph.pairs import (
    bond_counts,
    complete,
    count_meetings,
    reverse_index,
    write_meetings,
)
from epitaxy.graph.search import Crystals, Found, all_edges, checked
from epitaxy.graph.spec import GraphSpec


@dataclass(frozen=True)
class Edges:
    """Edges of a batch; indices are those of atoms within the batch.

    Attributes:
        source: Neighbour j of each edge.
        target: Centre i of each edge.
        shifts: Image n of the neighbour: the edge vector is ``x_j + n @ cell - x_i``.
        edge_offsets: First edge of each crystal.
        padded: For padded graphs, which edges are fill.
        reverse: If asked for, the edge that runs back from each.
        meetings: If asked for, pairs of edges a → b, b → c: index of the first, of the second.
    """

    source: Int64[np.ndarray, " edges"]
    target: Int64[np.ndarray, " edges"]
    shifts: Int32[np.ndarray, "edges 3"]
    edge_offsets: Int64[np.ndarray, " graphs+1"]
    padded: Bool[np.ndarray, " edges"] | None = None
    reverse: Int64[np.ndarray, " edges"] | None = None
    meetings: tuple[Int64[np.ndarray, " pairs"], Int64[np.ndarray, " pairs"]] | None = None


def build_edges(
    spec: GraphSpec,
    positions: Float64[np.ndarray, "atoms 3"],
    cells: Float64[np.ndarray, "graphs 3 3"],
    pbc: Bool[np.ndarray, "graphs 3"],
    atom_offsets: Int64[np.ndarray, " graphs+1"],
    *,
    names: Sequence[str] | None = None,
) -> Edges:
    """Returns the edges that ``spec`` asks for, in canonical order.

    Edges are sorted by (target, source, shift); those of ``nearest`` with ties cut by (target,
    distance). Exact for every cell, also for atoms outside it. Runs without holding the
    interpreter's lock.

    Args:
        spec: Rule, cutoff in Å and limits.
        positions: Cartesian, Å.
        cells: Lattice vectors as rows, Å; rows along non-periodic axes are not looked at.
        pbc: Which lattice vectors are periodic.
        atom_offsets: First atom of each crystal, and the number of atoms last.
        names: Ids of the crystals, for error messages.

    Raises:
        ConfigError: If the shapes of the arrays disagree.
        RecordError: If coordinates are not finite, or a cell is so small that the search would
            not end in reasonable time.
    """
    crystals = checked(positions, cells, pbc, atom_offsets, names)
    found = _found(crystals, spec)
    if spec.padded and spec.max_neighbors is not None:
        return _padded(crystals, spec.max_neighbors, found)
    found, reverse = _with_reverse(found) if spec.reverse else (found, None)
    return Edges(
        found.source,
        found.target,
        found.shifts,
        found.row_offsets[crystals.atom_offsets],
        reverse=reverse,
        meetings=_meetings(found) if spec.line_graph else None,
    )


def _found(crystals: Crystals, spec: GraphSpec) -> Found:
    if spec.rule == "composition":
        return _complete(crystals)
    if spec.rule == "shell":
        return _shells(crystals, spec)
    found = _within_images(all_edges(crystals, spec.cutoff), spec.max_images)
    if spec.max_neighbors is None:
        return found
    return found.take(*_nearest(crystals, found, spec))


def count_neighbors(
    positions: Float64[np.ndarray, "atoms 3"],
    cells: Float64[np.ndarray, "graphs 3 3"],
    pbc: Bool[np.ndarray, "graphs 3"],
    atom_offsets: Int64[np.ndarray, " graphs+1"],
    cutoffs: Sequence[float],
    *,
    names: Sequence[str] | None = None,
) -> Int64[np.ndarray, "graphs cutoffs"]:
    """Returns the number of directed edges of each crystal within each of ``cutoffs`` (Å).

    Raises:
        ConfigError: If the shapes of the arrays disagree.
        RecordError: As ``build_edges``.
    """
    crystals = checked(positions, cells, pbc, atom_offsets, names)
    totals = np.zeros((len(cutoffs), len(crystals.cells)), np.int64)
    for row, cutoff in zip(totals, cutoffs, strict=True):
        outcome = periodic.count(*crystals.kernel_arguments(), float(cutoff), row)
        crystals.check(outcome, cutoff)
    return totals.T.copy()


def _within_images(found: Found, most: int | None) -> Found:
    """Returns the edges that cross at most ``most`` cells along each lattice vector."""
    if most is None:
        return found
    near = (np.abs(found.shifts) <= most).all(axis=1)
    atoms = len(found.row_offsets) - 1
    return found.take(np.flatnonzero(near), np.bincount(found.target[near], minlength=atoms))


def _nearest(
    crystals: Crystals, found: Found, spec: GraphSpec
) -> tuple[Int64[np.ndarray, " kept"], Int64[np.ndarray, " atoms"]]:
    """Returns which edges are among the nearest of their centre, and how many of each centre."""
    arguments = (
        crystals.positions,
        crystals.cells,
        crystals.graph_index(),
        found.source,
        found.shifts,
        found.row_offsets,
        spec.max_neighbors,
    )
    chosen = np.empty(len(found.source) + 1, np.int64)
    if spec.completes_shells:
        kept = nearest_shells(*arguments, spec.tie_width, chosen)
    else:
        kept = nearest(*arguments, spec.rule == "nearest", chosen)
    return chosen[: kept.sum()], kept


def _shells(crystals: Crystals, spec: GraphSpec) -> Found:
    """Returns whole shells of neighbours, each bond in both directions (spec.rule ``shell``)."""
    found = all_edges(crystals, spec.cutoff)
    if (np.diff(found.row_offsets) >= (spec.max_neighbors or 0)).all():
        return _bonds(crystals, found, spec)
    parts = []
    for graph, first in enumerate(crystals.atom_offsets[:-1].tolist()):
        one = crystals.one(graph)
        part = _bonds(one, _enough_edges(one, spec), spec)
        parts.append(part._replace(source=part.source + first, target=part.target + first))
    sizes = np.concatenate([np.diff(part.row_offsets) for part in parts])
    return Found(
        np.concatenate([part.source for part in parts]),
        np.concatenate([part.target for part in parts]),
        np.concatenate([part.shifts for part in parts]),
        np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
    )


def _enough_edges(one: Crystals, spec: GraphSpec) -> Found:
    """Returns the edges of one crystal within a cutoff that gives every atom enough of them.

    The cutoff grows as ALIGNN's does: to the longest lattice vector, then twofold. A molecule ends
    once the cutoff covers it, however few neighbours its atoms have.
    """
    cutoff = spec.cutoff
    periodic_cell = one.cells[0][one.pbc[0]]
    longest = float(np.linalg.norm(periodic_cell, axis=1).max(initial=0.0))
    extent = float(np.linalg.norm(np.ptp(one.positions, axis=0)))
    while True:
        found = all_edges(one, cutoff)
        covered = not len(periodic_cell) and cutoff > extent
        if covered or (np.diff(found.row_offsets) >= (spec.max_neighbors or 0)).all():
            return found
        if not len(periodic_cell):
            cutoff = extent + 1.0
        else:
            cutoff = longest if cutoff < longest else 2 * cutoff


def _bonds(crystals: Crystals, found: Found, spec: GraphSpec) -> Found:
    """Returns the nearest edges and those that run back, as often as the rule says."""
    found, reverse = _with_reverse(found)
    kept = np.zeros(len(found.source), bool)
    kept[_nearest(crystals, found, spec)[0]] = True
    counts = bond_counts(
        found.source,
        found.target,
        reverse,
        kept,
        spec.repeats == "self",
        spec.repeats == "mutual",
    )
    row_sizes = np.diff(np.concatenate([[0], np.cumsum(counts)])[found.row_offsets])
    return found.take(np.repeat(np.arange(len(counts)), counts), row_sizes)


def _with_reverse(found: Found) -> tuple[Found, Int64[np.ndarray, " edges"]]:
    """Returns the edges and, for each, the one that runs back.

    At exactly the cutoff rounding may let an edge in and not the one that runs back: it is left
    out then.
    """
    reverse = np.empty(len(found.source), np.int64)
    if reverse_index(found.source, found.shifts, found.row_offsets, reverse):
        return found, reverse
    ends = np.stack([found.source, found.target])
    forth = np.concatenate([ends, found.shifts.T]).T.astype(np.int64, order="C")
    back = np.concatenate([ends[::-1], -found.shifts.T]).T.astype(np.int64, order="C")
    whole_row = np.dtype((np.void, 5 * 8))
    paired = np.isin(forth.view(whole_row).ravel(), back.view(whole_row).ravel())
    atoms = len(found.row_offsets) - 1
    sizes = np.bincount(found.target[paired], minlength=atoms)
    return _with_reverse(found.take(np.flatnonzero(paired), sizes))


def _complete(crystals: Crystals) -> Found:
    """Returns all ordered pairs of the elements of each composition."""
    sizes = np.diff(crystals.atom_offsets)
    total = int((sizes**2).sum())
    source, target = np.empty(total, np.int64), np.empty(total, np.int64)
    complete(crystals.atom_offsets, source, target)
    row_offsets = np.concatenate([[0], np.cumsum(np.repeat(sizes, sizes))]).astype(np.int64)
    return Found(source, target, np.zeros((total, 3), np.int32), row_offsets)


def _meetings(found: Found) -> tuple[np.ndarray, np.ndarray]:
    """Returns all pairs of different edges a → b and b → c."""
    ends = (found.source, found.target, found.row_offsets)
    first, second = np.empty((2, count_meetings(*ends)), np.int64)
    write_meetings(*ends, first, second)
    return first, second


def _padded(crystals: Crystals, width: int, found: Found) -> Edges:
    num_atoms = len(crystals.positions)
    real = np.arange(width) < np.diff(found.row_offsets)[:, None]
    first_atom = np.repeat(crystals.atom_offsets[:-1], np.diff(crystals.atom_offsets))
    all_source = np.repeat(first_atom, width).reshape(num_atoms, width)
    all_shifts = np.zeros((num_atoms, width, 3), np.int32)
    all_source[real] = found.source
    all_shifts[real] = found.shifts
    return Edges(
        all_source.reshape(-1),
        np.repeat(np.arange(num_atoms), width),
        all_shifts.reshape(-1, 3),
        crystals.atom_offsets * width,
        ~real.reshape(-1),
    )
