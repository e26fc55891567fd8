"""torch_geometric: pickled ``Data`` in LMDB, and ASE's sqlite with pymatgen's neighbours."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import torch
from ase.db import connect
from pymatgen.io.ase import AseAtomsAdaptor
from pymatgen.optimization.neighbors import find_points_in_spheres
from torch_geometric.data import Batch, Data

from peers.frames import CUTOFF, Frame, Frames

Edges = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def neighbours(positions: np.ndarray, cell: np.ndarray) -> Edges:
    """Returns centres, neighbours, images and distances from pymatgen's Cython kernel."""
    x, pbc = np.ascontiguousarray(positions), np.ones(3, dtype=np.int64)
    cell = np.ascontiguousarray(cell)
    centre, neighbour, image, distance = find_points_in_spheres(x, x, CUTOFF, pbc, cell, tol=1e-8)
    apart = distance > 1e-8
    return centre[apart], neighbour[apart], image[apart], distance[apart]


def graph_of(frame: Frame, edges: Edges | None) -> Data:
    """Returns numbers, positions, cell, labels and perhaps edges with their images as ``Data``."""
    data = Data(
        z=torch.from_numpy(frame.numbers),
        pos=torch.from_numpy(frame.positions).float(),
        cell=torch.from_numpy(frame.cell).float()[None],
        energy=torch.tensor([frame.energy], dtype=torch.float32),
        forces=torch.from_numpy(frame.forces).float(),
        stress=torch.from_numpy(frame.stress).float()[None],
    )
    if edges is not None:
        centre, neighbour, image, distance = edges
        data.edge_index = torch.from_numpy(np.stack([neighbour, centre]).astype(np.int64))
        data.cell_offsets = torch.from_numpy(image.astype(np.float32))
        data.distances = torch.from_numpy(distance.astype(np.float32))
    return data


def write_pickles(graphs: list[Data], path: Path) -> int:
    """Writes one pickle per key; returns their bytes."""
    total = 0
    with lmdb.open(str(path), subdir=False, lock=False, map_size=1 << 34) as environment:
        for first in range(0, len(graphs), 128):
            with environment.begin(write=True) as transaction:
                for row, graph in enumerate(graphs[first : first + 128], first):
                    blob = pickle.dumps(graph, protocol=pickle.HIGHEST_PROTOCOL)
                    transaction.put(str(row).encode(), blob)
                    total += len(blob)
    return total


def pickles(frames: Frames, folder: Path) -> Callable[[list[int]], int]:
    """From disk: edges were computed beforehand and are stored in the pickles."""
    graphs = [graph_of(frame, neighbours(frame.positions, frame.cell)) for frame in frames]
    write_pickles(graphs, folder / "pyg.lmdb")
    environment = lmdb.open(
        str(folder / "pyg.lmdb"), subdir=False, readonly=True, lock=False, readahead=False
    )

    def batch_of(rows: list[int]) -> int:
        with environment.begin() as transaction:
            read = [pickle.loads(transaction.get(str(row).encode())) for row in rows]
        return Batch.from_data_list(read).num_edges

    return batch_of


def sqlite(kernel: bool) -> Callable[[Frames, Path], Callable[[list[int]], int]]:
    def prepared(frames: Frames, folder: Path) -> Callable[[list[int]], int]:
        """From disk."""
        with connect(folder / f"{kernel}.db") as database:
            for atoms in frames.ase():
                database.write(atoms)
        database = connect(folder / f"{kernel}.db").__enter__()

        def graph(row: int) -> Data:
            atoms: Any = database.get_atoms(id=row + 1)
            stress = atoms.get_stress(voigt=False)
            frame = Frame(
                atoms.numbers, atoms.positions, np.asarray(atoms.cell),
                atoms.get_potential_energy(), atoms.get_forces(), stress,
            )  # fmt: skip
            if kernel:
                return graph_of(frame, neighbours(frame.positions, frame.cell))
            structure = AseAtomsAdaptor.get_structure(atoms)
            return graph_of(frame, structure.get_neighbor_list(CUTOFF))

        return lambda rows: Batch.from_data_list([graph(row) for row in rows]).num_edges

    return prepared


VARIANTS = {"pickles": pickles, "sqlite": sqlite(False), "sqlite_kernel": sqlite(True)}
