"""Independent routes to neighbour lists, and crystals to try them on."""

from __future__ import annotations

import csv
import gzip
import math
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from epitaxy.graph.neighbors import Edges, build_edges
from epitaxy.graph.record import CrystalRecord
from epitaxy.graph.spec import GraphSpec

Rows = np.ndarray
"""Edges as sorted rows (centre, neighbour, image)."""


def sorted_rows(target: np.ndarray, source: np.ndarray, shifts: np.ndarray) -> Rows:
    rows = np.column_stack([target, source, shifts]).astype(np.int64)
    return rows[np.lexsort(rows.T[::-1])]


def edges_of(record: CrystalRecord, spec: GraphSpec) -> Edges:
    return build_edges(
        spec, record.positions, record.cell[None], record.pbc[None], np.array([0, record.num_atoms])
    )


def edge_distances(record: CrystalRecord, edges: Edges) -> np.ndarray:
    images = edges.shifts @ record.cell
    vectors = record.positions[edges.source] + images - record.positions[edges.target]
    return np.linalg.norm(vectors, axis=1)


def pymatgen_rows(record: CrystalRecord, cutoff: float) -> Rows:
    from pymatgen.core import Lattice, Structure

    lattice = Lattice(record.cell, pbc=tuple(bool(axis) for axis in record.pbc))
    species = ["H"] * record.num_atoms
    structure = Structure(lattice, species, record.positions, coords_are_cartesian=True)
    centre, neighbour, image, distance = structure.get_neighbor_list(cutoff)
    # The one rule that differs by intent: atoms within 0.01 Å are one atom to us.
    apart = distance > 0.01
    return sorted_rows(centre[apart], neighbour[apart], image[apart])


def brute_force_rows(record: CrystalRecord, cutoff: float) -> Rows:
    """All images whose lattice vector is short enough, bounded by the smallest singular value."""
    periodic = record.cell * record.pbc[:, None]
    spread = np.linalg.norm(np.ptp(record.positions, axis=0))
    largest = 0
    if record.pbc.any():
        stretch = np.linalg.svd(record.cell[record.pbc], compute_uv=False).min()
        largest = math.ceil((cutoff + spread) / stretch)
    ranges = [np.arange(-largest, largest + 1) if axis else np.zeros(1) for axis in record.pbc]
    images = np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1).reshape(-1, 3)
    rows = []
    for centre in range(record.num_atoms):
        vectors = record.positions[None] - record.positions[centre] + (images @ periodic)[:, None]
        squared = (vectors**2).sum(-1)
        image, neighbour = np.nonzero((squared <= cutoff**2 + 1e-8) & (squared > 1e-4))
        rows.append(sorted_rows(np.full(len(image), centre), neighbour, images[image]))
    return np.concatenate(rows)


@pytest.fixture(scope="session")
def edges() -> Callable[[CrystalRecord, GraphSpec], Edges]:
    return edges_of


@pytest.fixture(scope="session")
def rows() -> Callable[..., Rows]:
    """Ours as sorted rows: ``rows(record, cutoff)``."""

    def ours(record: CrystalRecord, cutoff: float) -> Rows:
        found = edges_of(record, GraphSpec(cutoff=cutoff))
        return sorted_rows(found.target, found.source, found.shifts)

    return ours


@pytest.fixture(scope="session")
def pymatgen_route() -> Callable[[CrystalRecord, float], Rows]:
    return pymatgen_rows


@pytest.fixture(scope="session")
def brute_force_route() -> Callable[[CrystalRecord, float], Rows]:
    return brute_force_rows


@pytest.fixture(scope="session")
def distances() -> Callable[[CrystalRecord, Edges], np.ndarray]:
    return edge_distances


@pytest.fixture(scope="session")
def mp_2000(data_dir: Path) -> list[CrystalRecord]:
    """The 2,000 Materials Project crystals of at most 20 atoms."""
    return list(_read_p1_cifs(data_dir / "small" / "mp_2000.csv.gz"))


def _read_p1_cifs(path: Path) -> Iterator[CrystalRecord]:
    # A reader of our own for these regular P 1 files: pymatgen takes a minute for them.
    from pymatgen.core import Lattice

    csv.field_size_limit(sys.maxsize)
    with gzip.open(path, "rt", encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            text = row["cif"]
            lengths = [float(x) for x in re.findall(r"_cell_length_[abc]\s+(\S+)", text)]
            angles = [
                float(re.search(rf"_cell_angle_{name}\s+(\S+)", text).group(1))
                for name in ("alpha", "beta", "gamma")
            ]
            cell = Lattice.from_parameters(*lengths, *angles).matrix
            sites = re.findall(r"^\s+[A-Z][a-z]?\S*\s+\S+\s+1\s+(\S+)\s+(\S+)\s+(\S+)", text, re.M)
            fractions = np.array(sites, dtype=float)
            numbers = np.ones(len(fractions), np.uint8)
            yield CrystalRecord(row["material_id"], numbers, fractions @ cell, cell)
