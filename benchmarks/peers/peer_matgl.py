"""matgl: ``Structure2Graph`` and the collate function of its potentials."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from matgl.config import DEFAULT_ELEMENTS
from matgl.ext.pymatgen import Structure2Graph
from matgl.graph.data import collate_fn_pes

from peers.frames import CUTOFF, Frames


def converter(frames: Frames, folder: Path) -> Callable[[list[int]], int]:
    """From pymatgen structures and labels in memory."""
    convert = Structure2Graph(element_types=DEFAULT_ELEMENTS, cutoff=CUTOFF)
    structures = frames.pymatgen()
    labels = [
        {
            "energies": torch.tensor(frame.energy, dtype=torch.float32),
            "forces": torch.from_numpy(frame.forces).float(),
            "stresses": torch.from_numpy(frame.stress).float(),
        }
        for frame in frames
    ]

    def item(row: int) -> tuple:
        graph, lattice, state = convert.get_graph(structures[row])
        return graph, lattice, torch.tensor(np.array(state), dtype=torch.float32), labels[row]

    return lambda rows: collate_fn_pes([item(row) for row in rows])[0].num_edges


VARIANTS = {"converter": converter}
