"""Periodic neighbour lists of a whole batch in one call, as the arrays a batch is made of.

An edge runs from a neighbour (``source``) to a centre (``target``); every periodic image within the
cutoff is one edge, periodic images of the centre itself included. Neighbours at exactly the cutoff
are inside (within 1e-8 Å² of its square, pymatgen's tolerance), atoms at most 0.01 Å apart share no
edge. The work is O(atoms² · images) per crystal, which suits cells of up to a few thousand atoms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64

from epitaxy.errors import ConfigError, RecordError
from epitaxy.graph import periodic
from epitaxy.graph.nearest import nearest
from epitaxy.graph.spec import GraphSpec

_REMEDY = {
    periodic.TOO_MANY_IMAGES: (
        "the cutoff of {cutoff} Å would need more than {limit:.0e} periodic images per atom; "
        "check the units of the cell (Å) or lower the cutoff"
    ),
    periodic.TOO_FAR_AWAY: "an atom lies more than 1e8 cells away; check its coordinates",
}


@dataclass(frozen=True)
class Edges:
    """Edges of a batch; indices are those of atoms within the batch.

    Attributes:
        source: Neighbour j of each edge.
        target: Centre i of each edge.
        shifts: Image n of the neighbour: the edge vector is ``x_j + n @ cell - x_i``.
        edge_offsets: First edge of each crystal.
        padded: For padded graphs, which edges are fill.
    """

    source: Int64[np.ndarray, " edges"]
    target: Int64[np.ndarray, " edges"]
    shifts: Int32[np.ndarray, "edges 3"]
    edge_offsets: Int64[np.ndarray, " graphs+1"]
    padded: Bool[np.ndarray, " edges"] | None = None


@dataclass(frozen=True)
class _Crystals:
    """Checked, contiguous input: what the kernels rely on."""

    positions: np.ndarray
    cells: np.ndarray
    pbc: np.ndarray
    atom_offsets: np.ndarray
    names: Sequence[str] | None

    def kernel_arguments(self) -> tuple[np.ndarray, ...]:
        return self.positions, self.cells, self.pbc, self.atom_offsets

    def check(self, outcome: tuple[int, int], cutoff: float) -> None:
        status, graph = outcome
        if status == periodic.OK:
            return
        name = f"crystal {graph} of the batch" if self.names is None else repr(self.names[graph])
        reason = _REMEDY[status].format(cutoff=cutoff, limit=periodic.MAX_IMAGES)
        raise RecordError(
            f"record {name}: {reason} (cell in Å: {self.cells[graph].round(6).tolist()})"
        )


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

    ``radius`` edges are sorted by (target, source, shift), ``nearest`` edges by (target, distance)
    with ties as ``GraphSpec`` says. Exact for every cell, also for atoms outside it. Runs without
    holding the interpreter's lock.

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
    crystals = _checked(positions, cells, pbc, atom_offsets, names)
    source, target, shifts, row_offsets = _all_edges(crystals, spec.cutoff)
    if spec.max_neighbors is None:
        return Edges(source, target, shifts, row_offsets[crystals.atom_offsets])
    graph_index = np.repeat(np.arange(len(cells)), np.diff(crystals.atom_offsets))
    chosen = np.empty(len(source), np.int64)
    kept = nearest(
        crystals.positions,
        crystals.cells,
        graph_index,
        source,
        shifts,
        row_offsets,
        spec.max_neighbors,
        spec.rule == "nearest",
        chosen,
    )
    chosen = chosen[: kept.sum()]
    if spec.padded:
        return _padded(crystals, spec.max_neighbors, kept, source[chosen], shifts[chosen])
    row_offsets[1:] = np.cumsum(kept)
    edge_offsets = row_offsets[crystals.atom_offsets]
    return Edges(source[chosen], target[chosen], shifts[chosen], edge_offsets)


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
    crystals = _checked(positions, cells, pbc, atom_offsets, names)
    totals = np.zeros((len(cutoffs), len(crystals.cells)), np.int64)
    for row, cutoff in zip(totals, cutoffs, strict=True):
        outcome = periodic.count(*crystals.kernel_arguments(), float(cutoff), row)
        crystals.check(outcome, cutoff)
    return totals.T.copy()


def _checked(
    positions: np.ndarray,
    cells: np.ndarray,
    pbc: np.ndarray,
    atom_offsets: np.ndarray,
    names: Sequence[str] | None,
) -> _Crystals:
    # One memory layout, so that kernels are compiled once (writable too: views of a shard are not).
    positions = np.require(positions, np.float64, ["C", "A", "W"])
    cells = np.require(cells, np.float64, ["C", "A", "W"])
    pbc = np.require(pbc, np.bool_, ["C", "A", "W"])
    atom_offsets = np.require(atom_offsets, np.int64, ["C", "A", "W"])
    graphs = len(atom_offsets) - 1
    expected = {"positions": (len(positions), 3), "cells": (graphs, 3, 3), "pbc": (graphs, 3)}
    found = {"positions": positions.shape, "cells": cells.shape, "pbc": pbc.shape}
    if found != expected:
        raise ConfigError(f"neighbour search expects arrays of shapes {expected}, got {found}")
    ends = atom_offsets[[0, -1]].tolist()
    if ends != [0, len(positions)] or (np.diff(atom_offsets) < 0).any():
        raise ConfigError(
            f"atom_offsets must rise from 0 to the number of atoms ({len(positions)}), got {ends}"
        )
    if not (np.isfinite(positions).all() and np.isfinite(cells).all()):
        raise RecordError("neighbour search got NaN or infinity in positions or cells")
    return _Crystals(positions, cells, pbc, atom_offsets, names)


def _all_edges(
    crystals: _Crystals, cutoff: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    row_offsets = np.empty(len(crystals.positions) + 1, np.int64)
    capacity = _expected_edges(crystals, cutoff)
    while True:
        source, target, shifts = _edge_arrays(capacity)
        outcome = periodic.fill(
            *crystals.kernel_arguments(), cutoff, source, target, shifts, row_offsets
        )
        if outcome[0] != periodic.TOO_SMALL:
            break
        totals = np.zeros(len(crystals.cells), np.int64)
        crystals.check(periodic.count(*crystals.kernel_arguments(), cutoff, totals), cutoff)
        capacity = int(totals.sum())
    crystals.check(outcome, cutoff)
    total = row_offsets[-1]
    return source[:total], target[:total], shifts[: 3 * total].reshape(total, 3), row_offsets


def _edge_arrays(capacity: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns room for sources, targets and flat shifts (with one number to spare).

    One allocation, because the C library gives three of this size back to the system when they are
    freed, and fetching fresh pages for every batch then takes as long as the search itself.
    """
    room = np.empty(28 * capacity + 4, np.uint8)
    source = room[: 8 * capacity].view(np.int64)
    target = room[8 * capacity : 16 * capacity].view(np.int64)
    return source, target, room[16 * capacity :].view(np.int32)


def _expected_edges(crystals: _Crystals, cutoff: float) -> int:
    """Returns the edges at uniform density, with some to spare; a guess that may be too low."""
    atoms = np.diff(crystals.atom_offsets).astype(float)
    volume = np.abs(np.linalg.det(crystals.cells))
    sphere = 4 / 3 * math.pi * cutoff**3
    density = atoms / np.maximum(volume, 1e-3)
    guess = 1.1 * (atoms * sphere * density).sum() + 16 * atoms.sum()
    return int(min(guess, 1e8))


def _padded(
    crystals: _Crystals, width: int, kept: np.ndarray, source: np.ndarray, shifts: np.ndarray
) -> Edges:
    num_atoms = len(crystals.positions)
    real = np.arange(width) < kept[:, None]
    first_atom = np.repeat(crystals.atom_offsets[:-1], np.diff(crystals.atom_offsets))
    all_source = np.repeat(first_atom, width).reshape(num_atoms, width)
    all_shifts = np.zeros((num_atoms, width, 3), np.int32)
    all_source[real] = source
    all_shifts[real] = shifts
    return Edges(
        all_source.reshape(-1),
        np.repeat(np.arange(num_atoms), width),
        all_shifts.reshape(-1, 3),
        crystals.atom_offsets * width,
        ~real.reshape(-1),
    )
