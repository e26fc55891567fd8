"""alignn: its graph builder without DGL, no line graph, and its batching."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from alignn.torch_graph_builder import batch_torch_graphs, build_pure_torch_graph
from jarvis.core.atoms import Atoms
from jarvis.core.specie import atomic_numbers_to_symbols

from peers.frames import CUTOFF, Frames


def builder(matscipy: bool) -> Callable[[Frames, Path], Callable[[list[int]], int]]:
    def prepared(frames: Frames, folder: Path) -> Callable[[list[int]], int]:
        """From jarvis atoms and labels in memory."""
        atoms = [
            Atoms(
                lattice_mat=frame.cell,
                coords=frame.positions,
                elements=atomic_numbers_to_symbols(frame.numbers.tolist()),
                cartesian=True,
            )
            for frame in frames
        ]
        forces = [torch.from_numpy(frame.forces).float() for frame in frames]
        energies = [torch.tensor(frame.energy) for frame in frames]

        def batch_of(rows: list[int]) -> int:
            graphs = []
            for row in rows:
                graph = build_pure_torch_graph(
                    atoms=atoms[row],
                    two_body_cutoff=CUTOFF,
                    atom_features="atomic_number",
                    use_matscipy_topology=matscipy,
                    compute_line_graph=False,
                )
                graph.ndata["forces"] = forces[row]
                graphs.append(graph)
            torch.stack([energies[row] for row in rows])
            return batch_torch_graphs(graphs).num_edges

        return batch_of

    return prepared


VARIANTS = {"matscipy": builder(True), "torch": builder(False)}
