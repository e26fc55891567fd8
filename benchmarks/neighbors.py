"""CPU time of periodic neighbour lists: this project's kernel against pymatgen's.

Both see the same real MPtrj frames and must find the same number of edges. Ours starts from the
arrays of a batch and ends with the arrays of a batch. pymatgen appears twice: its documented call
on a ``Structure`` made beforehand, and the Cython kernel under it, called on bare arrays.

    python benchmarks/neighbors.py
"""

from __future__ import annotations

import argparse

import numpy as np
from pymatgen.core import Lattice, Structure
from pymatgen.optimization.neighbors import find_points_in_spheres

from epitaxy.graph.neighbors import build_edges
from epitaxy.graph.record import CrystalRecord
from epitaxy.graph.spec import GraphSpec
from rounds import data_folder, real_frames, report, rows, take_turns


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="folder of real data; default: EPITAXY_DATA")
    parser.add_argument("--structures", type=int, default=512)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    records = real_frames(data_folder(arguments.data), arguments.structures)
    batches = batches_of(records, arguments.batch)
    structures = [structure_of(record) for record in records]
    periodic = np.ones(3, dtype=np.int64)
    table = []
    for cutoff in (5.0, 8.0):
        spec = GraphSpec(cutoff=cutoff)

        def ours(spec: GraphSpec = spec) -> int:
            return sum(len(build_edges(spec, *batch).source) for batch in batches)

        def documented(cutoff: float = cutoff) -> int:
            return sum(len(structure.get_neighbor_list(cutoff)[0]) for structure in structures)

        def kernel(cutoff: float = cutoff) -> int:
            total = 0
            for record in records:
                x, cell = record.positions, record.cell
                found = find_points_in_spheres(x, x, cutoff, periodic, cell, tol=1e-8)
                total += len(found[0]) - record.num_atoms  # it lists every atom as its own
            return total

        edges = {ours(), documented(), kernel()}
        if len(edges) != 1:
            raise SystemExit(f"the routes disagree on the number of edges: {sorted(edges)}")
        variants = {
            "epitaxy build_edges": ours,
            "pymatgen Structure.get_neighbor_list": documented,
            "pymatgen find_points_in_spheres (kernel only)": kernel,
        }
        seconds = take_turns(variants, arguments.rounds)
        table += rows(seconds, len(records), edges.pop(), cutoff=cutoff)
    report("neighbors", table)


if __name__ == "__main__":
    main()
