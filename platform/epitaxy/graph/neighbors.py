"""Graphs of a whole batch in one call, as the arrays a batch is made of.

An edge runs from a neighbour (``source``) to a centre (``target``); every periodic image within the
cutoff is one edge, periodic images of the centre itself included. Neighbours at exactly the cutoff
are inside (within 1e-8 Å² of its square, pymatgen's tolerance), atoms at most 0.01 Å apart share no
edge. Small crystals are searched by trying all pairs, which vector instructions do at a nanosecond
each; those of hundreds of atoms by bins (``binned``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64

from epitaxy.graph.nearest import nearest, nearest_images, nearest_shells
from epitaxy.graph.pairs import (
    complete,
    count_bonds,
    count_meetings,
    reverse_index,
    write_bonds,
    write_meetings,
)
from epitaxy.graph.search import (
    Crystals,
    Found,
    all_edges,
    checked,
    count_edges,
    densities,
)
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
        meetings=_meetings(found, spec.self_angles) if spec.line_graph else None,
    )


def _found(crystals: Crystals, spec: GraphSpec) -> Found:
    if spec.rule == "composition":
        return _complete(crystals)
    if spec.rule in ("radius", "minimum_image"):
        cutoffs = np.full(len(crystals.cells), spec.cutoff)
        found = _within_images(all_edges(crystals, cutoffs), spec.max_images)
        if spec.rule == "minimum_image":
            found = _nearest_images(crystals, found)
        return found if spec.max_neighbors is None else _nearest(crystals, found, spec)[0]
    found = _nearest_of_few(crystals, spec)
    return _bonds(found, spec) if spec.rule == "shell" else found


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
    totals = np.empty((len(crystals.cells), len(cutoffs)), np.int64)
    for column, cutoff in enumerate(cutoffs):
        radii = np.full(len(crystals.cells), float(cutoff))
        totals[:, column] = count_edges(crystals, radii)
    return totals


def _within_images(found: Found, most: int | None) -> Found:
    """Returns the edges that cross at most ``most`` cells along each lattice vector."""
    if most is None:
        return found
    near = (np.abs(found.shifts) <= most).all(axis=1)
    atoms = len(found.row_offsets) - 1
    return found.take(np.flatnonzero(near), np.bincount(found.target[near], minlength=atoms))


def _nearest(
    crystals: Crystals, found: Found, spec: GraphSpec
) -> tuple[Found, Float64[np.ndarray, " atoms"]]:
    """Returns the nearest edges of each centre, and how far the last one it must have is (Å)."""
    chosen = np.empty(len(found.source) + 1, np.int64)
    last = np.empty(len(crystals.positions))
    arguments = _row_arguments(crystals, found)
    if spec.completes_shells:
        kept = nearest_shells(*arguments, spec.max_neighbors, spec.tie_width, chosen, last)
    else:
        kept = nearest(*arguments, spec.max_neighbors, spec.rule == "nearest", chosen, last)
    return found.take(chosen[: kept.sum()], kept), last


def _nearest_images(crystals: Crystals, found: Found) -> Found:
    chosen = np.empty(len(found.source) + 1, np.int64)
    kept = nearest_images(*_row_arguments(crystals, found), chosen)
    return found.take(chosen[: kept.sum()], kept)


def _row_arguments(crystals: Crystals, found: Found) -> tuple[np.ndarray, ...]:
    """Returns what every kernel that picks edges row by row takes first."""
    places = (crystals.positions, crystals.cells, crystals.graph_index())
    return *places, found.source, found.shifts, found.row_offsets


def _nearest_of_few(crystals: Crystals, spec: GraphSpec) -> Found:
    """Returns the nearest edges without looking at all edges within the cutoff.

    The search starts with a radius in which twice as many are expected, and grows for those
    crystals in which an atom has too few: ``nearest`` up to its cutoff, ``shell`` until all have
    enough or, in a molecule, the radius covers everything. What is nearest does not depend on how
    far one looked.
    """
    most = _largest_radii(crystals, spec)
    return _grow(crystals, spec, np.minimum(_first_radii(crystals, spec), most), most)


def _grow(crystals: Crystals, spec: GraphSpec, radii: np.ndarray, most: np.ndarray) -> Found:
    """Returns the nearest edges, looking as far as ``radii`` (Å), or farther up to ``most``."""
    found, last = _nearest(
        crystals, _within_images(all_edges(crystals, radii), spec.max_images), spec
    )
    needed = last + max(spec.tie_width, 1e-6)
    lacking = np.zeros(len(radii), bool)
    np.logical_or.at(lacking, crystals.graph_index(), needed > radii[crystals.graph_index()])
    again = np.flatnonzero(lacking & (radii < most))
    if not len(again):
        return found
    atoms = np.flatnonzero(np.isin(crystals.graph_index(), again))
    farther = np.minimum(1.6 * radii[again], most[again])
    return found.with_rows(atoms, _grow(crystals.some(again, atoms), spec, farther, most[again]))


def _first_radii(crystals: Crystals, spec: GraphSpec) -> Float64[np.ndarray, " graphs"]:
    atoms_within_1 = 4 / 3 * np.pi * np.maximum(densities(crystals), 1e-6)
    guess = np.cbrt(2 * (spec.max_neighbors or 0) / atoms_within_1) + 0.5
    return np.where(crystals.pbc.all(axis=1), guess, spec.cutoff)  # others have no density


def _largest_radii(crystals: Crystals, spec: GraphSpec) -> Float64[np.ndarray, " graphs"]:
    if spec.rule == "nearest":
        return np.full(len(crystals.cells), spec.cutoff)
    most = np.full(len(crystals.cells), np.inf)
    for graph in np.flatnonzero(~crystals.pbc.any(axis=1)).tolist():
        atoms = crystals.positions[crystals.atoms_of(graph)]
        most[graph] = np.linalg.norm(np.ptp(atoms, axis=0)) + 1.0 if len(atoms) else 0.0
    return most


def _bonds(found: Found, spec: GraphSpec) -> Found:
    """Returns the edges and those that run back, as often as the rule says."""
    arrays = (found.source, found.target, found.shifts, found.row_offsets)
    sizes = count_bonds(*arrays)
    row_offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    source, target = np.empty((2, row_offsets[-1]), np.int64)
    shifts, mutual = np.empty((len(source), 3), np.int32), np.empty(len(source), bool)
    write_bonds(*arrays, row_offsets, source, target, shifts, mutual)
    bonds = Found(source, target, shifts, row_offsets)
    if spec.repeats == "never":
        return bonds
    counts = 1 + (mutual & ((source == target) | (spec.repeats == "mutual")))
    row_sizes = np.diff(np.concatenate([[0], np.cumsum(counts)])[row_offsets])
    return bonds.take(np.repeat(np.arange(len(source)), counts), row_sizes)


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


def _meetings(found: Found, with_itself: bool) -> tuple[np.ndarray, np.ndarray]:
    """Returns all pairs of edges a → b and b → c."""
    ends = (found.source, found.target, found.row_offsets, with_itself)
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
