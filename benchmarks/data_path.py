"""CPU time from disk to a training batch with 8 Å graphs, in random order.

Ours: LMDB records, decoded, graphs built for the whole batch, collated. Theirs: an ASE database
(sqlite), pymatgen's neighbour list per structure, ``torch_geometric`` batching. Both deliver atomic
numbers, positions, cells, edges with image shifts, energy, forces and stress, and must deliver the
same number of edges. The second baseline skips pymatgen's ``Structure`` and calls its kernel.

    python benchmarks/data_path.py
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from pymatgen.io.ase import AseAtomsAdaptor
from pymatgen.optimization.neighbors import find_points_in_spheres
from torch_geometric.data import Batch, Data

from epitaxy.data.codec import decode
from epitaxy.data.convert import prepare
from epitaxy.data.dataset import Dataset
from epitaxy.graph.collate import collate
from epitaxy.graph.record import CrystalRecord
from epitaxy.graph.spec import GraphSpec
from rounds import data_folder, real_frames, report, rows, take_turns

CUTOFF = 8.0
SPEC = GraphSpec(cutoff=CUTOFF)
Neighbours = Callable[[Atoms], tuple[np.ndarray, np.ndarray, np.ndarray]]


def write_ase(records: list[CrystalRecord], path: Path) -> None:
    """Writes an ASE database with energies (eV), forces and stresses."""
    with connect(path) as database:
        for record in records:
            atoms = Atoms(record.numbers, record.positions, cell=record.cell, pbc=record.pbc)
            stress = record.labels["stress"].value
            atoms.calc = SinglePointCalculator(
                atoms,
                energy=float(record.labels["energy"].value),
                forces=record.labels["forces"].value,
                stress=stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]],
            )
            database.write(atoms)


def by_structure(atoms: Atoms) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns centres, neighbours and images through a pymatgen ``Structure``."""
    structure = AseAtomsAdaptor.get_structure(atoms)
    centre, neighbour, image, _ = structure.get_neighbor_list(CUTOFF)
    return centre, neighbour, image


def by_kernel(atoms: Atoms) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the same from pymatgen's Cython kernel on bare arrays."""
    x, cell = atoms.positions, np.ascontiguousarray(atoms.cell)
    pbc = atoms.pbc.astype(np.int64)
    centre, neighbour, image, distance = find_points_in_spheres(x, x, CUTOFF, pbc, cell, tol=1e-8)
    apart = distance > 1e-8
    return centre[apart], neighbour[apart], image[apart]


def peer_batch(database: object, rows_: list[int], neighbours: Neighbours) -> Batch:
    """Returns a PyG batch of some rows of the ASE database."""
    graphs = []
    for row in rows_:
        atoms = database.get_atoms(id=row + 1)
        centre, neighbour, image = neighbours(atoms)
        graphs.append(
            Data(
                z=torch.from_numpy(atoms.numbers),
                pos=torch.from_numpy(atoms.positions).float(),
                cell=torch.from_numpy(np.asarray(atoms.cell)).float()[None],
                edge_index=torch.from_numpy(np.stack([neighbour, centre]).astype(np.int64)),
                shifts=torch.from_numpy(image.astype(np.int32)),
                energy=torch.tensor([atoms.get_potential_energy()], dtype=torch.float32),
                forces=torch.from_numpy(atoms.get_forces()).float(),
                stress=torch.from_numpy(atoms.get_stress(voigt=False)).float()[None],
            )
        )
    return Batch.from_data_list(graphs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="folder of real data; default: EPITAXY_DATA")
    parser.add_argument("--structures", type=int, default=512)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    records = real_frames(data_folder(arguments.data), arguments.structures)
    order = np.random.default_rng(0).permutation(len(records))
    batches = [
        order[first : first + arguments.batch].tolist()
        for first in range(0, len(order), arguments.batch)
    ]
    with tempfile.TemporaryDirectory() as folder:
        prepare(records, Path(folder) / "lmdb", progress=False)
        write_ase(records, Path(folder) / "ase.db")
        dataset = Dataset.open(Path(folder) / "lmdb")
        fields = tuple(dataset.fields.values())
        with connect(Path(folder) / "ase.db") as database:

            def ours() -> int:
                total = 0
                for rows_ in batches:
                    read = [decode(blob) for blob in dataset.read(rows_)]
                    total += collate(read, [SPEC], fields).graph(SPEC).num_edges
                return total

            def theirs(neighbours: Neighbours) -> int:
                return sum(peer_batch(database, r, neighbours).num_edges for r in batches)

            edges = {ours(), theirs(by_structure), theirs(by_kernel)}
            if len(edges) != 1:
                raise SystemExit(f"the routes disagree on the number of edges: {sorted(edges)}")
            variants = {
                "epitaxy LMDB, build_edges, collate": ours,
                "ASE sqlite, pymatgen Structure, PyG Batch": lambda: theirs(by_structure),
                "ASE sqlite, pymatgen kernel, PyG Batch": lambda: theirs(by_kernel),
            }
            seconds = take_turns(variants, arguments.rounds)
    report("data_path", list(rows(seconds, len(records), edges.pop(), cutoff=CUTOFF)))


if __name__ == "__main__":
    main()
