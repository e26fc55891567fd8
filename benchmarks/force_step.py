"""CPU time of one training step with forces: this project's CGCNN against PyG's CGConv.

Both see the same crystals and edges, have the same width, depth, Gaussians and head, and do the
same work: energy, forces by derivative, an L1 loss on both, backward, AdamW. They take turns, so
a busy machine slows both alike; the ratio of each round is what counts.

    python benchmarks/force_step.py --out benchmarks/results/force_step.csv

Denormals: narrow Gaussians underflow to subnormal numbers, which CPUs multiply slowly. The table
shows both settings of ``torch.set_flush_denormal``; workers of a training run switch it on.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch_geometric.nn import CGConv

from epitaxy.encoders.basis import GaussianBasis
from epitaxy.encoders.cgcnn import CGCNN
from epitaxy.encoders.contract import Encoding
from epitaxy.graph.batch import CrystalBatch
from epitaxy.graph.collate import collate
from epitaxy.graph.record import CrystalRecord, Label, LabelField
from epitaxy.heads.derivatives import energy_and_derivatives
from epitaxy.heads.scalar import ScalarHead

FIELDS = (LabelField("energy", "eV"), LabelField("forces", "eV/Å", (3,), per_atom=True))
FCC = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
Energy = Callable[[CrystalBatch], Tensor]


class PlainPyG(nn.Module):
    """Element embedding, ``CGConv`` layers with mean aggregation, an energy per atom."""

    def __init__(self, encoder: CGCNN, width_of_gaussians: float) -> None:
        super().__init__()
        width, self.spec = encoder.node_width, encoder.spec
        size, cutoff = encoder.basis.size, encoder.spec.cutoff
        self.embedding = nn.Embedding(119, width)
        self.basis = GaussianBasis(size, cutoff, width=width_of_gaussians)
        self.convolutions = nn.ModuleList(
            CGConv(width, dim=size, aggr="mean") for _ in encoder.interaction
        )
        self.head = ScalarHead(width, pool="sum")

    def forward(self, batch: CrystalBatch) -> Tensor:
        """Returns the energy of each crystal."""
        graph = batch.graph(self.spec)
        edge_index = torch.stack([graph.source, graph.target])
        features = self.basis(batch.edge_vectors(self.spec).norm(dim=-1))
        node = self.embedding(batch.numbers)
        for convolution in self.convolutions:
            node = convolution(node, edge_index, features)
        return self.head(Encoding(node=node), batch)


class Ours(nn.Module):
    """The recommended encoder with its head."""

    def __init__(self, encoder: CGCNN) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = ScalarHead(encoder.node_width, pool="sum")

    def forward(self, batch: CrystalBatch) -> Tensor:
        """Returns the energy of each crystal."""
        return self.head(self.encoder(batch), batch)


def crystals(count: int, seed: int) -> list[CrystalRecord]:
    """Rattled and strained fcc cells of 4 to 48 atoms of 3 random elements each."""
    rng = np.random.default_rng(seed)
    made = []
    for index in range(count):
        repeats = rng.integers(1, 4, 3) if rng.random() < 0.5 else np.array([1, 1, 2])
        grid = np.stack(np.meshgrid(*map(np.arange, repeats), indexing="ij"), -1).reshape(-1, 1, 3)
        fractions = ((grid + FCC).reshape(-1, 3)) / repeats
        cell = np.diag(repeats * rng.uniform(3.6, 4.4)) @ (np.eye(3) + rng.normal(0, 0.03, (3, 3)))
        positions = fractions @ cell + rng.normal(0, 0.1, fractions.shape)
        numbers = rng.choice(rng.integers(3, 84, 3), len(positions))
        labels = {
            "energy": Label(-3.0 * len(positions), "eV"),
            "forces": Label(rng.normal(0, 0.5, positions.shape), "eV/Å", per_atom=True),
        }
        made.append(CrystalRecord(f"c{index}", numbers, positions, cell, labels=labels))
    return made


def make_step(model: nn.Module) -> Callable[[CrystalBatch], None]:
    """Returns a training step of ``model`` on energies and forces."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step(batch: CrystalBatch) -> None:
        energy, forces, _ = energy_and_derivatives(
            model, batch, forces=True, stress=False, create_graph=True
        )
        assert forces is not None  # noqa: S101 - asked for one line above
        loss = ((energy - batch.labels["energy"]) / batch.num_atoms).abs().mean()
        loss = loss + (forces - batch.labels["forces"]).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def seconds(step: Callable[[CrystalBatch], None], batches: list[CrystalBatch]) -> float:
    """Returns the CPU time per batch."""
    start = time.process_time()
    for batch in batches:
        step(batch)
    return (time.process_time() - start) / len(batches)


def main() -> None:
    """Prints the table and, with ``--out``, writes every round to a CSV file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--graphs", type=int, default=8, help="crystals per batch")
    parser.add_argument("--cutoff", type=float, default=5.0, help="Å, of both models")
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    encoder = CGCNN(cutoff=options.cutoff)
    batches = [collate(crystals(options.graphs, s), [encoder.spec], FIELDS) for s in range(3)]
    edges = [batch.graph(encoder.spec).num_edges for batch in batches]
    print(f"{options.graphs} crystals per batch, edges {edges}, {options.rounds} rounds")
    steps = {
        "pyg": make_step(PlainPyG(encoder, 1.0)),
        "pyg, wide Gaussians": make_step(PlainPyG(encoder, 3.0)),
        "epitaxy": make_step(Ours(encoder)),
    }
    rows = []
    for flush in (False, True):
        torch.set_flush_denormal(flush)
        for step in steps.values():
            step(batches[0])
        for round_ in range(options.rounds):
            for name, step in steps.items():
                rows.append((flush, round_, name, seconds(step, batches)))
    report(rows, list(steps))
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        with options.out.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["flush_denormal", "round", "model", "cpu_seconds_per_step"])
            writer.writerows(rows)


def report(rows: list[tuple[bool, int, str, float]], names: list[str]) -> None:
    """Prints median times and the median, smallest and largest ratio to PyG of a round."""
    for flush in (False, True):
        times = {
            name: np.array([r[3] for r in rows if r[0] is flush and r[2] == name]) for name in names
        }
        for name, values in times.items():
            ratios = times["pyg"] / values
            print(
                f"flush_denormal={flush!s:5} {name:20} {1e3 * np.median(values):8.1f} ms   "
                f"{np.median(ratios):5.2f}x [{ratios.min():.2f}, {ratios.max():.2f}]"
            )


if __name__ == "__main__":
    main()
