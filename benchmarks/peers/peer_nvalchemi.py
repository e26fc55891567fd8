"""nvalchemi-toolkit-ops: its batched naive neighbour list on the CPU (it is made for a GPU)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from nvalchemiops.torch.neighbors import neighbor_list

from peers.frames import CUTOFF, Frames


def naive(frames: Frames, folder: Path) -> Callable[[list[int]], int]:
    """From arrays in memory; labels are left out, a bound on neighbours is known beforehand."""
    most = _most_neighbours(frames)

    def batch_of(rows: list[int]) -> int:
        chosen = [frames.frame(row) for row in rows]
        sizes = torch.tensor([len(frame.numbers) for frame in chosen])
        cells = torch.from_numpy(np.stack([frame.cell for frame in chosen]))
        edges, *_ = neighbor_list(
            torch.from_numpy(np.concatenate([frame.positions for frame in chosen])),
            CUTOFF,
            cell=cells,
            pbc=torch.ones(len(rows), 3, dtype=torch.bool),
            batch_idx=torch.repeat_interleave(torch.arange(len(rows)), sizes).int(),
            max_neighbors=most,
            return_neighbor_list=True,
            method="batch_naive",
        )
        return int(edges.shape[1])

    return batch_of


def _most_neighbours(frames: Frames) -> int:
    """Returns a bound from the densest cell: atoms per volume, with room for clusters."""
    volumes = np.abs(np.linalg.det(frames.arrays["cell"]))
    density = (np.diff(frames.arrays["offsets"]) / volumes).max()
    return int(1.3 * density * 4 / 3 * np.pi * CUTOFF**3) + 16


VARIANTS = {"naive": naive}
