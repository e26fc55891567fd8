"""What objectives share that compare two views of a crystal."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from epitaxy.encoders.contract import Provision
from epitaxy.encoders.pooling import crystal_vector
from epitaxy.graph.batch import CrystalBatch
from epitaxy.graph.record import CrystalRecord
from epitaxy.graph.spec import GraphSpec
from epitaxy.heads.model import Model
from epitaxy.objectives.augmentation import Augmentation
from epitaxy.objectives.contract import BaseObjective, Views
from epitaxy.shapes import GraphFeatures


class TwinViews(BaseObjective):
    """Two views of every crystal and no labels; a subclass says how their vectors compare.

    Args:
        augmentation: Makes the views.
        term: Name of the loss's one term.
    """

    def __init__(self, augmentation: Augmentation, term: str) -> None:
        self.augmentation = augmentation
        self.term = term
        self.needs_structures = not augmentation.composition
        # Encoders without states of atoms read compositions, in which no atom can be hidden.
        needed: Provision = "composition" if augmentation.composition else "node"
        self.requires = frozenset({needed})

    def view_specs(self, spec: GraphSpec) -> tuple[tuple[GraphSpec, ...], ...]:
        """Returns the encoder's graph for either view."""
        return ((spec,), (spec,))

    def views(self, record: CrystalRecord, rng: np.random.Generator) -> tuple[CrystalRecord, ...]:
        """Returns two views, drawn independently."""
        return self.augmentation.views(record, rng)

    def counts(self, views: Views) -> Mapping[str, float]:
        """Returns the number of crystals."""
        return {self.term: views[0].num_graphs}


def vector_of(model: Model, batch: CrystalBatch) -> GraphFeatures:
    """Returns the crystals' vectors: the encoder's own, or else the means of the atoms' states."""
    return crystal_vector(model.encoder(batch), batch)
