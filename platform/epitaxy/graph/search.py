"""All edges within a radius, for a whole batch in one call; the input is checked here."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64

from epitaxy.errors import ConfigError, RecordError
from epitaxy.graph import binned, periodic

_REMEDY = {
    periodic.TOO_MANY_IMAGES: (
        "the cutoff of {cutoff} Å would need more than {limit:.0e} periodic images per atom; "
        "check the units of the cell (Å) or lower the cutoff"
    ),
    periodic.TOO_FAR_AWAY: "an atom lies more than 1e8 cells away; check its coordinates",
}


@dataclass(frozen=True)
class Crystals:
    """Checked, contiguous input: what the kernels rely on.

    Attributes:
        positions: Cartesian, Å, (atoms, 3).
        cells: Lattice vectors as rows, Å, (graphs, 3, 3).
        pbc: Which lattice vectors are periodic, (graphs, 3).
        atom_offsets: First atom of each crystal, and the number of atoms last.
        names: Ids of the crystals, for error messages.
        numbers: Which crystals of the batch these are, for error messages.
    """

    positions: np.ndarray
    cells: np.ndarray
    pbc: np.ndarray
    atom_offsets: np.ndarray
    names: Sequence[str] | None
    numbers: np.ndarray

    def kernel_arguments(self) -> tuple[np.ndarray, ...]:
        """Returns what every kernel takes first."""
        return self.positions, self.cells, self.pbc, self.atom_offsets

    def check(self, outcome: tuple[int, int], cutoffs: np.ndarray) -> None:
        """Refuses what a kernel could not search.

        Raises:
            RecordError: Naming the crystal and the reason.
        """
        status, graph = outcome
        if status != periodic.OK:
            raise self.refusal(status, graph, cutoffs)

    def refusal(self, status: int, graph: int, cutoffs: np.ndarray) -> RecordError:
        """Returns the error that names crystal number ``graph`` and the reason."""
        number = int(self.numbers[graph])
        name = f"crystal {number} of the batch" if self.names is None else repr(self.names[number])
        reason = _REMEDY[status].format(cutoff=cutoffs[graph], limit=periodic.MAX_IMAGES)
        return RecordError(
            f"record {name}: {reason} (cell in Å: {self.cells[graph].round(6).tolist()})"
        )

    def graph_index(self) -> Int64[np.ndarray, " atoms"]:
        """Returns the crystal of each atom."""
        return np.repeat(np.arange(len(self.cells)), np.diff(self.atom_offsets))

    def large(self) -> Bool[np.ndarray, " graphs"]:
        """Returns which crystals are searched by bins of atoms."""
        return np.diff(self.atom_offsets) >= binned.LARGE

    def apart(self) -> Iterator[Crystals]:
        """Yields each crystal on its own."""
        for graph in range(len(self.cells)):
            yield self.some(np.arange(graph, graph + 1), self.atoms_of(graph))

    def atoms_of(self, graph: int) -> slice:
        """Returns the atoms of crystal number ``graph`` here."""
        return slice(*self.atom_offsets[graph : graph + 2].tolist())

    def some(self, graphs: np.ndarray, atoms: np.ndarray | slice) -> Crystals:
        """Returns the crystals ``graphs``, which consist of ``atoms``."""
        sizes = np.diff(self.atom_offsets)[graphs]
        return Crystals(
            self.positions[atoms],
            self.cells[graphs],
            self.pbc[graphs],
            np.concatenate([[0], np.cumsum(sizes)]),
            self.names,
            self.numbers[graphs],
        )


class Found(NamedTuple):
    """All edges within a radius, sorted by (target, source, shift); see ``Edges``."""

    source: Int64[np.ndarray, " edges"]
    target: Int64[np.ndarray, " edges"]
    shifts: Int32[np.ndarray, "edges 3"]
    row_offsets: Int64[np.ndarray, " atoms+1"]

    def take(self, chosen: np.ndarray, row_sizes: np.ndarray) -> Found:
        """Returns the edges at ``chosen``, ``row_sizes`` of them per centre."""
        row_offsets = np.concatenate([[0], np.cumsum(row_sizes)]).astype(np.int64)
        return Found(self.source[chosen], self.target[chosen], self.shifts[chosen], row_offsets)

    def with_rows(self, atoms: np.ndarray, other: Found) -> Found:
        """Returns these edges, the rows of ``atoms`` being those of ``other``."""
        sizes, starts = np.diff(self.row_offsets), self.row_offsets[:-1].copy()
        sizes[atoms] = np.diff(other.row_offsets)
        starts[atoms] = len(self.source) + other.row_offsets[:-1]
        both = Found(
            np.concatenate([self.source, atoms[other.source]]),
            np.concatenate([self.target, atoms[other.target]]),
            np.concatenate([self.shifts, other.shifts]),
            self.row_offsets,
        )
        ends = np.cumsum(sizes)
        chosen = np.arange(sizes.sum()) + np.repeat(starts - (ends - sizes), sizes)
        return both.take(chosen, sizes)


def checked(
    positions: np.ndarray,
    cells: np.ndarray,
    pbc: np.ndarray,
    atom_offsets: np.ndarray,
    names: Sequence[str] | None,
) -> Crystals:
    """Returns the input as the kernels need it.

    Raises:
        ConfigError: If the shapes of the arrays disagree.
        RecordError: If coordinates are not finite.
    """
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
    return Crystals(positions, cells, pbc, atom_offsets, names, np.arange(graphs))


def all_edges(crystals: Crystals, cutoffs: Float64[np.ndarray, " graphs"]) -> Found:
    """Returns every edge within the cutoff (Å) of its crystal.

    Raises:
        RecordError: If a cell is so small that the search would not end in reasonable time.
    """
    if not crystals.large().any():
        return _of_all_pairs(crystals, cutoffs)
    parts = []
    for graph, one in enumerate(crystals.apart()):
        first, radius = crystals.atom_offsets[graph], cutoffs[graph : graph + 1]
        part = _of_bins(one, radius) if one.large()[0] else _of_all_pairs(one, radius)
        parts.append(part._replace(source=part.source + first, target=part.target + first))
    return _joined(parts)


def count_edges(
    crystals: Crystals, cutoffs: Float64[np.ndarray, " graphs"]
) -> Int64[np.ndarray, " graphs"]:
    """Returns the number of edges of each crystal, refusing what ``all_edges`` refuses."""
    if not crystals.large().any():
        totals = np.zeros(len(crystals.cells), np.int64)
        crystals.check(periodic.count(*crystals.kernel_arguments(), cutoffs, totals), cutoffs)
        return totals
    parts = []
    for graph, one in enumerate(crystals.apart()):
        radius = cutoffs[graph : graph + 1]
        if one.large()[0]:
            parts.append(np.array([binned.count(_bins(one, radius))]))
        else:
            parts.append(count_edges(one, radius))
    return np.concatenate(parts)


def _bins(one: Crystals, cutoffs: np.ndarray) -> binned.Bins:
    bins = binned.sort_into_bins(one.positions, one.cells[0], one.pbc[0], cutoffs[0])
    if isinstance(bins, int):
        raise one.refusal(bins, 0, cutoffs)
    return bins


def _of_bins(one: Crystals, cutoffs: np.ndarray) -> Found:
    bins = _bins(one, cutoffs)
    sizes, *seen = binned.find(bins, int(min(expected_edges(one, cutoffs).sum(), 1e8)))
    row_offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    source, target = np.empty((2, row_offsets[-1]), np.int64)
    shifts = np.empty((len(source), 3), np.int32)
    binned.write(bins, *seen, row_offsets, source, target, shifts)
    return Found(source, target, shifts, row_offsets)


def _joined(parts: Sequence[Found]) -> Found:
    sizes = np.concatenate([np.diff(part.row_offsets) for part in parts])
    row_offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    source, target, shifts = (
        np.concatenate([part[column] for part in parts]) for column in range(3)
    )
    return Found(source, target, shifts, row_offsets)


def _of_all_pairs(crystals: Crystals, cutoffs: np.ndarray) -> Found:
    row_offsets = np.empty(len(crystals.positions) + 1, np.int64)
    capacity = int(min(expected_edges(crystals, cutoffs).sum(), 1e8))
    while True:
        source, target, shifts = _edge_arrays(capacity)
        outcome = periodic.fill(
            *crystals.kernel_arguments(), cutoffs, source, target, shifts, row_offsets
        )
        if outcome[0] != periodic.TOO_SMALL:
            break
        capacity = int(count_edges(crystals, cutoffs).sum())
    crystals.check(outcome, cutoffs)
    total = row_offsets[-1]
    shifts = shifts[: 3 * total].reshape(total, 3)
    return Found(source[:total], target[:total], shifts, row_offsets)


def _edge_arrays(capacity: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns room for sources, targets and flat shifts (with one number to spare).

    One allocation, because the C library gives three of this size back to the system when they are
    freed, and fetching fresh pages for every batch then takes as long as the search itself.
    """
    room = np.empty(28 * capacity + 4, np.uint8)
    source = room[: 8 * capacity].view(np.int64)
    target = room[8 * capacity : 16 * capacity].view(np.int64)
    return source, target, room[16 * capacity :].view(np.int32)


def expected_edges(crystals: Crystals, cutoffs: np.ndarray) -> Float64[np.ndarray, " graphs"]:
    """Returns the edges at uniform density, with some to spare; a guess that may be too low."""
    atoms = np.diff(crystals.atom_offsets)
    return 1.1 * atoms * 4 / 3 * math.pi * cutoffs**3 * densities(crystals) + 16 * atoms


def densities(crystals: Crystals) -> Float64[np.ndarray, " graphs"]:
    """Returns atoms per Å³ of the cell: at most 1/3, also where a cell without volume is given."""
    atoms = np.diff(crystals.atom_offsets)
    volumes = np.abs(np.linalg.det(crystals.cells))
    return atoms / np.maximum(volumes, 3.0 * np.maximum(atoms, 1))  # diamond has 5.7 Å³ per atom
