"""An objective with everything a combined one must pass on: views, labels, graphs, couplings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from epitaxy.graph.record import CrystalRecord, Label, LabelField
from epitaxy.graph.spec import GraphSpec
from epitaxy.heads.model import Model
from epitaxy.objectives.contract import BaseObjective, Coupling, Views


class Shaken(BaseObjective):
    """Two views that are moved at random; compares the atoms' mean states of both."""

    made = (LabelField("shift", "Å", (3,), per_atom=True),)
    specs = (GraphSpec("radius", 2.0),)
    couples_records = True
    needs_structures = True

    def __init__(self, draws: int = 1) -> None:
        self.draws = draws

    def heads(self, encoder: Any) -> dict[str, nn.Module]:
        return {"projector": nn.Linear(encoder.node_width, 3)}

    def view_specs(self, spec: GraphSpec) -> tuple[tuple[GraphSpec, ...], ...]:
        return ((spec, *self.specs), (spec,))

    def views(self, record: CrystalRecord, rng: np.random.Generator) -> tuple[CrystalRecord, ...]:
        return tuple(self._moved(record, rng) for _ in range(2))

    def _moved(self, record: CrystalRecord, rng: np.random.Generator) -> CrystalRecord:
        shift = rng.normal(size=(self.draws, *record.positions.shape))[-1]
        labels = {"shift": Label(shift, "Å", per_atom=True)}
        return record.replace(positions=record.positions + shift, labels=labels)

    def counts(self, views: Views) -> Mapping[str, float]:
        return {"likeness": views[0].num_graphs}

    def terms(self, model: Model, views: Views) -> dict[str, Coupling]:
        assert len(views) == 2
        rows = {f"view {k}": self._rows(model, view) for k, view in enumerate(views)}
        return {"likeness": Coupling(rows, self._loss, 0.5)}

    def _rows(self, model: Model, view: Any) -> torch.Tensor:
        node = model.head["projector"](model.encoder(view).node)
        return node.new_zeros(view.num_graphs, 3).index_add(0, view.graph_index, node)

    @staticmethod
    def _loss(rows: Mapping[str, torch.Tensor]) -> torch.Tensor:
        one, other = rows.values()
        return (one - other).square().mean()
