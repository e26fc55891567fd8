"""An encoder that is quick to reason about, and batches with any labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from epitaxy.encoders.contract import Encoding
from epitaxy.graph.batch import CrystalBatch
from epitaxy.graph.collate import collate
from epitaxy.graph.labels import LabelTable
from epitaxy.graph.record import CrystalRecord, LabelField
from epitaxy.graph.spec import GraphSpec

FIELDS = {
    "energy": LabelField("energy", "eV"),
    "gap": LabelField("gap", "eV"),
    "kind": LabelField("kind", ""),
    "modulus": LabelField("modulus", "GPa"),
    "forces": LabelField("forces", "eV/Å", (3,), per_atom=True),
    "stress": LabelField("stress", "eV/Å^3", (3, 3)),
}


class PairEncoder(nn.Module):
    """Node state of an atom: Σ over neighbours of (d − cutoff)², once per feature."""

    spec = GraphSpec("radius", 3.0)
    invariances: frozenset[str] = frozenset()
    blocks = ("gain",)
    node_width = 2
    graph_width = 0
    vector_width = 0

    def __init__(self, *, provides: tuple[str, ...] = ("node", "position_grad")) -> None:
        super().__init__()
        self.provides = frozenset(provides)
        self.couples_records = False
        self.gain = nn.Linear(1, 2)

    def forward(self, batch: CrystalBatch) -> Encoding:
        graph = batch.graph(self.spec)
        lengths = batch.edge_vectors(self.spec).norm(dim=-1)
        total = batch.positions.new_zeros(len(batch.numbers))
        total = total.index_add(0, graph.target, (lengths - 3.0).square())
        return Encoding(node=self.gain(total.unsqueeze(-1)))


def to_batch(records: Sequence[CrystalRecord], names: Sequence[str]) -> CrystalBatch:
    fields = [FIELDS[name] for name in names]
    return collate(records, [PairEncoder.spec], fields, torch.float64)


def label_table(records: Sequence[CrystalRecord], names: Sequence[str]) -> LabelTable:
    def column(name: str, reduce: Any) -> np.ndarray:
        return np.array(
            [reduce(r.labels[name].value) if name in r.labels else np.nan for r in records]
        )

    composition = np.stack([np.bincount(r.numbers, minlength=119) for r in records])
    scalars = [name for name in names if not FIELDS[name].shape]
    others = [name for name in names if FIELDS[name].shape]
    return LabelTable(
        num_atoms=composition.sum(1),
        composition=composition,
        scalars={name: column(name, float) for name in scalars},
        root_mean_square={
            name: column(name, lambda v: float(np.sqrt(np.square(v).mean())))
            for name in others
            if FIELDS[name].per_atom
        },
        largest={name: column(name, lambda v: float(np.abs(v).max())) for name in others},
        units={name: FIELDS[name].unit for name in names},
    )


@pytest.fixture
def encoder() -> PairEncoder:
    torch.manual_seed(0)
    return PairEncoder().double()


@pytest.fixture(scope="session")
def batch_of() -> Any:
    return to_batch


@pytest.fixture(scope="session")
def table_of() -> Any:
    return label_table
