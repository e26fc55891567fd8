"""What every objective promises: terms as (sum, count) pairs that the step divides globally."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import Tensor, nn

from epitaxy.encoders.contract import Encoder
from epitaxy.errors import ConfigError, NeedsError
from epitaxy.graph.batch import CrystalBatch
from epitaxy.graph.labels import LabelTable
from epitaxy.graph.record import CrystalRecord, LabelField
from epitaxy.graph.spec import GraphSpec
from epitaxy.heads.model import Model

Rows = Mapping[str, Tensor]
"""Tensors of which each has one row per crystal, by name."""


@dataclass(frozen=True)
class Term:
    """One part of a loss over one micro-batch: its sum, what it is divided by globally, its weight.

    The step's loss is ``Σ weight * (Σ over ranks and micro-batches of total) / (Σ of count)``.
    """

    total: Tensor
    count: float
    weight: float = 1.0


@dataclass(frozen=True)
class Coupling:
    """One part of a loss that compares the crystals of a step with each other, such as contrast.

    The step gathers the rows of all ranks and micro-batches, lets ``loss`` compare them, and sends
    each row's gradient back to where it was made: the result is that of one process with one batch.
    ``counts`` gives the number of rows under the term's name.

    Attributes:
        rows: One row per crystal that takes part, (crystals, …); what they come from may need
            gradients, and integers may be among them.
        loss: The mean loss over all rows of a step, a scalar; 0 without rows. It must depend on
            nothing else, and be the same function on every rank.
        weight: Of the term.
    """

    rows: Rows
    loss: Callable[[Rows], Tensor]
    weight: float = 1.0

    @property
    def count(self) -> int:
        """Number of rows."""
        return len(next(iter(self.rows.values())))

    def alone(self) -> Term:
        """Returns the term of a step that has no other rows than these."""
        return Term(self.loss(self.rows) * self.count, self.count, self.weight)


Terms = Mapping[str, Term | Coupling]
Views = tuple[CrystalBatch, ...]


@dataclass(frozen=True)
class Balance:
    """How the step keeps the parts of a loss in proportion.

    Attributes:
        every: Steps from one measurement of the parts' gradients to the next.
        decay: Share of the old factors that a measurement keeps.
        limit: Largest factor; its inverse is the smallest.
    """

    every: int = 16
    decay: float = 0.9
    limit: float = 100.0


@runtime_checkable
class Objective(Protocol):
    """A plain object (not a module): its heads live in the model, its statistics in JSON.

    ``BaseObjective`` has a default for everything that is not about the loss itself.

    Attributes:
        labels: Labels that the data set must have.
        made: Labels that the views have besides: the noise that was added, say.
        fits_on: Those of the labels whose every value ``fit`` wants to see, not only scalars.
        units: Unit of each predicted quantity, filled in by ``fit``; empty if it predicts none.
        class_counts: Predicted labels that are class numbers, with their number of classes. The
            prediction is the probability of class 1 of two, (graphs,), or of every class,
            (graphs, classes).
        requires: What the encoder must provide.
        specs: Graphs it needs besides the encoder's own.
        couples_records: Whether some of its terms are ``Coupling``.
        forbids_coupling: Whether it refuses encoders that couple records (force objectives).
        needs_structures: Whether it refuses records that are mere compositions.
        needs_teacher: Whether it learns from a teacher, the frozen encoder of another model.
        plain_view: Whether its one view is the crystal as it is, at most without labels that mean
            nothing there; objectives that are combined share such a view.
        part_weights: Present weight of each part of a loss that has parts, which its terms'
            weights hold already; the name of a term is then ``<part>.<term>``.
        balance: How these parts are kept in proportion, if they are.
    """

    labels: tuple[str, ...]
    made: tuple[LabelField, ...]
    fits_on: tuple[str, ...]
    units: Mapping[str, str]
    class_counts: Mapping[str, int]
    requires: frozenset[str]
    specs: tuple[GraphSpec, ...]
    couples_records: bool
    forbids_coupling: bool
    needs_structures: bool
    needs_teacher: bool
    plain_view: bool
    part_weights: Mapping[str, float]
    balance: Balance | None

    def receive(self, teacher: Encoder) -> None:
        """Takes the teacher, before heads are made.

        The teacher is in eval mode, in the precision of the run and, once training starts, on its
        device; none of its parameters wants a gradient. It is no part of the model: the objective
        calls it under ``torch.no_grad`` and never changes it. A model that is loaded for anything
        but training gets none, so statistics must then tell what its heads are like.
        """
        ...

    def heads(self, encoder: Encoder) -> dict[str, nn.Module]:
        """Returns the heads it owns, by role, sized for ``encoder``."""
        ...

    def fit(self, table: LabelTable) -> dict[str, Any]:
        """Returns target statistics of the training split as JSON-ready data, and adopts them."""
        ...

    def adopt(self, statistics: Mapping[str, Any]) -> None:
        """Takes over statistics that ``fit`` returned earlier (from a checkpoint or the driver)."""
        ...

    def view_specs(self, spec: GraphSpec) -> tuple[tuple[GraphSpec, ...], ...]:
        """Returns the graphs to build for each view, given that of the encoder."""
        ...

    def views(self, record: CrystalRecord, rng: np.random.Generator) -> tuple[CrystalRecord, ...]:
        """Returns the record(s) to build graphs from; runs in the prefetch thread."""
        ...

    def begin(self, progress: float) -> None:
        """Tells which fraction of the run's records will be consumed after the next step."""
        ...

    def counts(self, views: Views) -> Mapping[str, float]:
        """Returns each term's count from the CPU batch, before any forward."""
        ...

    def terms(self, model: Model, views: Views) -> Terms:
        """Returns the loss terms of a micro-batch; an empty batch gives zero terms."""
        ...

    def predict(self, model: Model, batch: CrystalBatch) -> dict[str, Tensor]:
        """Returns predictions named like their labels, in the labels' units."""
        ...


class BaseObjective:
    """Defaults of an objective with one view, the record as it is, and nothing to fit or predict.

    The weights of its terms do not change during a run.
    """

    labels: tuple[str, ...] = ()
    made: tuple[LabelField, ...] = ()
    fits_on: tuple[str, ...] = ()
    units: Mapping[str, str] = {}
    class_counts: Mapping[str, int] = {}
    requires: frozenset[str] = frozenset()
    specs: tuple[GraphSpec, ...] = ()
    couples_records: bool = False
    forbids_coupling: bool = False
    needs_structures: bool = False
    needs_teacher: bool = False
    part_weights: Mapping[str, float] = {}
    balance: Balance | None = None

    @property
    def plain_view(self) -> bool:
        """Whether it leaves ``views`` as it is here; a class that overrides both says it anew."""
        return type(self).views is BaseObjective.views

    def receive(self, teacher: Encoder) -> None:
        """Refuses a teacher.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(
            f"a teacher is given, but objective {type(self).__name__} learns from none; leave out "
            "teacher=…, or choose an objective that does (`epitaxy objectives` lists them)"
        )

    def fit(self, table: LabelTable) -> dict[str, Any]:
        """Returns no statistics."""
        return {}

    def adopt(self, statistics: Mapping[str, Any]) -> None:
        """Takes over nothing."""

    def view_specs(self, spec: GraphSpec) -> tuple[tuple[GraphSpec, ...], ...]:
        """Returns the encoder's graph and the objective's own for its one view."""
        return ((spec, *self.specs),)

    def views(self, record: CrystalRecord, rng: np.random.Generator) -> tuple[CrystalRecord, ...]:
        """Returns the record as it is."""
        return (record,)

    def begin(self, progress: float) -> None:
        """Changes nothing."""

    def predict(self, model: Model, batch: CrystalBatch) -> dict[str, Tensor]:
        """Refuses to predict.

        Raises:
            NeedsError: Always.
        """
        raise NeedsError(
            f"{type(self).__name__} trains an encoder and predicts no label; train a head on "
            "labelled data: epitaxy finetune from=FOLDER objective.label=NAME …"
        )
