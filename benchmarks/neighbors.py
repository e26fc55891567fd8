"""CPU time of graph building: this project's kernels against those of other packages.

All see the same real MPtrj frames. Ours starts from the arrays of a batch and ends with the arrays
of a batch; the others take one crystal at a time. pymatgen appears twice: its documented call on a
``Structure`` made beforehand, and the Cython kernel under it, called on bare arrays. matscipy and
vesin take part if they can be imported; they are no dependencies of this project:

    pip install --no-deps --target peers-of-graphs matscipy vesin
    PYTHONPATH=peers-of-graphs python benchmarks/neighbors.py

Four parts: all edges within a radius, the other rules, line graphs, and crystals of thousands of
atoms. ``mismatches`` counts frames in which somebody's multiset of edges differs from ours.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np
from ase.neighborlist import primitive_neighbor_list
from pymatgen.core import Lattice, Structure
from pymatgen.optimization.neighbors import find_points_in_spheres

from epitaxy.graph.neighbors import build_edges
from epitaxy.graph.pairs import count_meetings, reverse_index, write_meetings
from epitaxy.graph.record import CrystalRecord
from epitaxy.graph.spec import GraphSpec
from rounds import data_folder, real_frames, report, rows, take_turns

OURS = "epitaxy build_edges"
DOCUMENTED = "pymatgen Structure.get_neighbor_list"
Triple = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Centres, neighbours and images of edges."""


def batches_of(records: list[CrystalRecord], size: int) -> list[tuple[np.ndarray, ...]]:
    """Returns the arrays that ``build_edges`` takes, ``size`` crystals at a time."""
    made = []
    for first in range(0, len(records), size):
        part = records[first : first + size]
        made.append(
            (
                np.concatenate([record.positions for record in part]),
                np.stack([record.cell for record in part]),
                np.stack([record.pbc for record in part]),
                np.cumsum([0, *(record.num_atoms for record in part)]),
            )
        )
    return made


def structure_of(record: CrystalRecord) -> Structure:
    """Returns the crystal as pymatgen has it."""
    species = record.numbers.tolist()
    return Structure(Lattice(record.cell), species, record.positions, coords_are_cartesian=True)


def by_pymatgen(record: CrystalRecord, cutoff: float) -> Triple:
    """The kernel lists every atom as its own neighbour: that edge is taken out."""
    x, periodic = record.positions, np.ones(3, dtype=np.int64)
    found = find_points_in_spheres(x, x, cutoff, periodic, record.cell, tol=1e-8)
    apart = found[3] > 0.01
    return found[0][apart], found[1][apart], found[2][apart]


def by_ase(record: CrystalRecord, cutoff: float) -> Triple:
    """ASE's neighbour list, on bare arrays."""
    return primitive_neighbor_list("ijS", record.pbc, record.cell, record.positions, cutoff)


def by_matscipy(record: CrystalRecord, cutoff: float) -> Triple:
    """Matscipy's neighbour list, on bare arrays."""
    from matscipy.neighbours import neighbour_list

    return neighbour_list(
        "ijS",
        positions=record.positions,
        cell=record.cell,
        pbc=record.pbc,
        cutoff=cutoff,
        numbers=record.numbers,
    )


def by_vesin(record: CrystalRecord, cutoff: float) -> Triple:
    """Vesin's neighbour list on one thread, on bare arrays."""
    from vesin import NeighborList

    search = NeighborList(cutoff=cutoff, full_list=True, n_threads=1)
    return tuple(search.compute(record.positions, record.cell, record.pbc, "ijS"))


PEERS: dict[str, Callable[[CrystalRecord, float], Triple]] = {
    "pymatgen find_points_in_spheres (kernel only)": by_pymatgen,
    "ase primitive_neighbor_list": by_ase,
    "matscipy neighbour_list": by_matscipy,
    "vesin NeighborList": by_vesin,
}


def peers(*without: str) -> Iterator[tuple[str, Callable[[CrystalRecord, float], Triple]]]:
    """Yields those that can be imported, but for ``without``."""
    for name, call in PEERS.items():
        package = name.split()[0]
        if package not in without and find_spec(package) is not None:
            yield name, call


def sorted_rows(found: Triple) -> np.ndarray:
    """Returns edges as sorted rows, to compare."""
    table = np.column_stack(found).astype(np.int64)
    return table[np.lexsort(table.T[::-1])]


def mismatches(
    records: list[CrystalRecord], cutoff: float, call: Callable[[CrystalRecord, float], Triple]
) -> int:
    """Returns the number of records in which ``call`` finds another multiset of edges than ours."""
    different = 0
    for record in records:
        ours = build_edges(GraphSpec(cutoff=cutoff), *batches_of([record], 1)[0])
        expected = sorted_rows((ours.target, ours.source, ours.shifts))
        different += not np.array_equal(sorted_rows(call(record, cutoff)), expected)
    return different


def radius_part(records: list[CrystalRecord], batch: int, rounds: int) -> Iterator[dict[str, Any]]:
    """Yields rows on all edges within 5 and 8 Å; ASE takes a thousand times as long as we do."""
    batches = batches_of(records, batch)
    structures = [structure_of(record) for record in records]
    for cutoff in (5.0, 8.0):
        spec = GraphSpec(cutoff=cutoff)
        variants: dict[str, Callable[[], int]] = {
            OURS: lambda spec=spec: sum(len(build_edges(spec, *b).source) for b in batches),
            DOCUMENTED: lambda cutoff=cutoff: sum(
                len(structure.get_neighbor_list(cutoff)[0]) for structure in structures
            ),
        }
        differing = {OURS: 0, DOCUMENTED: mismatches(records, cutoff, documented)}
        for name, call in peers("ase"):
            variants[name] = lambda call=call, cutoff=cutoff: sum(
                len(call(record, cutoff)[0]) for record in records
            )
            differing[name] = mismatches(records, cutoff, call)
        edges = variants[OURS]()
        seconds = take_turns(variants, rounds)
        facts = {"cutoff": cutoff, "rule": "radius", "atoms": mean_atoms(records)}
        for row in rows(seconds, len(records), edges, **facts):
            yield {**row, "mismatches": differing[row["variant"]]}


def documented(record: CrystalRecord, cutoff: float) -> Triple:
    """Pymatgen's documented call."""
    return structure_of(record).get_neighbor_list(cutoff)[:3]


def mean_atoms(records: list[CrystalRecord]) -> float:
    """Returns atoms per record."""
    return round(float(np.mean([record.num_atoms for record in records])), 1)


def rules_part(records: list[CrystalRecord], batch: int, rounds: int) -> Iterator[dict[str, Any]]:
    """Yields rows on the other rules, and on line graphs and reverse edges by themselves."""
    batches = batches_of(records, batch)
    structures = [structure_of(record) for record in records]
    specs = {
        "radius": GraphSpec(cutoff=8.0),
        "nearest, ties cut": GraphSpec("nearest", 8.0, 12),
        "nearest, ties kept": GraphSpec("nearest", 8.0, 12, ties="keep"),
        "shell": GraphSpec("shell", 8.0, 12),
    }

    def published() -> None:
        for structure in structures:
            for near in structure.get_all_neighbors(8.0):
                sorted(near, key=lambda neighbor: neighbor[1])[:12]

    variants: dict[str, Callable[[], Any]] = {
        name: lambda spec=spec: sum(len(build_edges(spec, *arrays).source) for arrays in batches)
        for name, spec in specs.items()
    }
    counts = {name: call() for name, call in variants.items()}
    loader = "nearest, as CGCNN's loader (pymatgen)"
    variants[loader], counts[loader] = published, counts["nearest, ties cut"]
    lines, reverses = LineGraphs(specs["shell"], batches), ReverseEdges(specs["radius"], batches)
    variants |= {"pairs of the shells' edges": lines, "reverse edges of the radius": reverses}
    counts |= {"pairs of the shells' edges": lines(), "reverse edges of the radius": reverses()}
    seconds = take_turns(variants, rounds)
    for name, own in seconds.items():
        both = {"radius": seconds["radius"], name: own}
        facts = {"cutoff": 8.0, "rule": name.split(",")[0], "atoms": mean_atoms(records)}
        yield {**list(rows(both, len(records), counts[name], **facts))[-1], "mismatches": ""}


class LineGraphs:
    """Writes the pairs of edges that meet, on edges made beforehand; returns how many."""

    def __init__(self, spec: GraphSpec, batches: list[tuple[np.ndarray, ...]]) -> None:
        self.ends = []
        for arrays in batches:
            edges = build_edges(spec, *arrays)
            self.ends.append((edges.source, edges.target, row_offsets(edges.target, arrays)))

    def __call__(self) -> int:
        """Returns the number of pairs."""
        total = 0
        for ends in self.ends:
            first, second = np.empty((2, count_meetings(*ends)), np.int64)
            write_meetings(*ends, first, second)
            total += len(first)
        return total


class ReverseEdges:
    """Finds the edge that runs back from each, on edges made beforehand; returns how many."""

    def __init__(self, spec: GraphSpec, batches: list[tuple[np.ndarray, ...]]) -> None:
        self.edges = []
        for arrays in batches:
            edges = build_edges(spec, *arrays)
            self.edges.append((edges.source, edges.shifts, row_offsets(edges.target, arrays)))

    def __call__(self) -> int:
        """Returns the number of edges."""
        total = 0
        for edges in self.edges:
            reverse = np.empty(len(edges[0]), np.int64)
            if not reverse_index(*edges, reverse):
                raise SystemExit("an edge of a radius graph has none that runs back")
            total += len(reverse)
        return total


def row_offsets(target: np.ndarray, arrays: tuple[np.ndarray, ...]) -> np.ndarray:
    """Returns the first edge of each atom."""
    sizes = np.bincount(target, minlength=len(arrays[0]))
    return np.concatenate([[0], np.cumsum(sizes)])


def large_part(record: CrystalRecord, rounds: int) -> Iterator[dict[str, Any]]:
    """Yields rows on supercells of one frame, rattled so that no distances are equal."""
    rng = np.random.default_rng(0)
    for wanted in (1000, 5000, 20_000):
        repeats = np.maximum(np.rint(np.cbrt(wanted / record.num_atoms)), 1).astype(int)
        images = np.stack(np.meshgrid(*[np.arange(repeats)] * 3, indexing="ij"), -1).reshape(-1, 3)
        positions = (record.positions + (images @ record.cell)[:, None]).reshape(-1, 3)
        positions = positions + rng.normal(0, 0.02, positions.shape)
        numbers = np.tile(record.numbers, len(images))
        big = CrystalRecord("big", numbers, positions, record.cell * repeats)
        arrays = batches_of([big], 1)[0]
        variants: dict[str, Callable[[], Any]] = {
            OURS: lambda arrays=arrays: build_edges(GraphSpec(cutoff=5.0), *arrays)
        }
        differing = {OURS: 0}
        for name, call in peers():
            variants[name] = lambda call=call, big=big: call(big, 5.0)
            differing[name] = mismatches([big], 5.0, call)
        edges = len(variants[OURS]().source)
        seconds = take_turns(variants, rounds)
        for row in rows(seconds, 1, edges, cutoff=5.0, rule="radius", atoms=big.num_atoms):
            yield {**row, "mismatches": differing[row["variant"]]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="folder of real data; default: EPITAXY_DATA")
    parser.add_argument("--structures", type=int, default=900)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    records = real_frames(data_folder(arguments.data), arguments.structures)
    table = list(radius_part(records, arguments.batch, arguments.rounds))
    table += rules_part(records[:256], arguments.batch, arguments.rounds)
    table += large_part(records[0], arguments.rounds)
    report("neighbors", table)


if __name__ == "__main__":
    main()
