"""What every objective promises: terms as (sum, count) pairs that the step divides globally."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import Tensor, nn

from epitaxy.encoders.contract import Encoder
from epitaxy.graph.batch import CrystalBatch
from epitaxy.graph.labels import LabelTable
from epitaxy.graph.record import CrystalRecord
from epitaxy.graph.spec import GraphSpec
from epitaxy.heads.model import Model


@dataclass(frozen=True)
class Term:
    """One part of a loss over one micro-batch: its sum, what it is divided by globally, its weight.

    The step's loss is ``Σ weight * (Σ over ranks and micro-batches of total) / (Σ of count)``.
    """

    total: Tensor
    count: int
    weight: float = 1.0


@runtime_checkable
class Objective(Protocol):
    """A plain object (not a module): its heads live in the model, its statistics in JSON.

    Attributes:
        labels: Labels that the data set must have.
        units: Unit of each predicted quantity, filled in by ``fit``.
        requires: What the encoder must provide.
        specs: Graphs it needs besides the encoder's own.
        couples_records: Whether its loss couples the records of a step (contrastive losses).
        forbids_coupling: Whether it refuses encoders that couple records (force objectives).
    """

    labels: tuple[str, ...]
    units: Mapping[str, str]
    requires: frozenset[str]
    specs: tuple[GraphSpec, ...]
    couples_records: bool
    forbids_coupling: bool

    def heads(self, encoder: Encoder) -> dict[str, nn.Module]:
        """Returns the heads it owns, by role, sized for ``encoder``."""
        ...

    def fit(self, table: LabelTable) -> dict[str, Any]:
        """Returns target statistics of the training split as JSON-ready data, and adopts them."""
        ...

    def adopt(self, statistics: Mapping[str, Any]) -> None:
        """Takes over statistics that ``fit`` returned earlier (from a checkpoint or the driver)."""
        ...

    def views(self, record: CrystalRecord, rng: np.random.Generator) -> tuple[CrystalRecord, ...]:
        """Returns the record(s) to build graphs from; runs in the prefetch thread."""
        ...

    def counts(self, views: tuple[CrystalBatch, ...]) -> dict[str, int]:
        """Returns each term's count from the CPU batch, before any forward."""
        ...

    def terms(self, model: Model, views: tuple[CrystalBatch, ...]) -> dict[str, Term]:
        """Returns the loss terms of a micro-batch; an empty batch gives zero terms."""
        ...

    def predict(self, model: Model, batch: CrystalBatch) -> dict[str, Tensor]:
        """Returns predictions named like their labels, in the labels' units."""
        ...


def class_counts(objective: Objective) -> Mapping[str, int]:
    """Returns the labels that are class numbers, each with its number of classes; mostly none.

    Such an objective has an attribute ``class_counts`` and predicts the probability of class 1
    of two, (graphs,), or that of every class, (graphs, classes).
    """
    counts: Mapping[str, int] = getattr(objective, "class_counts", {})
    return counts
