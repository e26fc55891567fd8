"""fairchem-core: its ASE-LMDB data set, its pymatgen edges, its batch."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import ase.db
from fairchem.core.datasets.ase_datasets import AseDBDataset
from fairchem.core.datasets.atomic_data import atomicdata_list_to_batch

from peers.frames import CUTOFF, Frames

logging.disable(logging.WARNING)


def reader(edges: bool) -> Callable[[Frames, Path], Callable[[list[int]], int]]:
    def prepared(frames: Frames, folder: Path) -> Callable[[list[int]], int]:
        """From disk."""
        path = folder / f"fairchem-{edges}.aselmdb"
        with ase.db.connect(str(path), type="aselmdb") as database:
            for atoms in frames.ase():
                database.write(atoms, data={"sid": "frame"})
        graph = {"r_edges": edges, "radius": CUTOFF, "max_neigh": 100_000}
        labels = {"r_energy": True, "r_forces": True, "r_stress": True}
        data = AseDBDataset({"src": str(path), "a2g_args": {**graph, **labels}})

        def batch_of(rows: list[int]) -> int:
            return int(atomicdata_list_to_batch([data[row] for row in rows]).edge_index.shape[1])

        return batch_of

    return prepared


VARIANTS = {"pymatgen": reader(True), "no_graph": reader(False)}
