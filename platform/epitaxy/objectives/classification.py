"""Supervised classification of one label that holds class numbers."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from epitaxy.encoders.activations import ActivationName
from epitaxy.encoders.contract import Encoder
from epitaxy.encoders.pooling import Pool
from epitaxy.errors import ConfigError, NeedsError, closest
from epitaxy.graph.batch import CrystalBatch
from epitaxy.graph.labels import LabelTable
from epitaxy.graph.record import CrystalRecord
from epitaxy.heads.losses import where_present
from epitaxy.heads.model import Model
from epitaxy.heads.scalar import Order, ScalarHead, head_input
from epitaxy.objectives.contract import BaseObjective, Term, Terms, Views
from epitaxy.shapes import GraphScalars

logger = logging.getLogger(__name__)


class Classification(BaseObjective):
    """Which of ``K`` classes a crystal belongs to: ``−log softmax(out)_y``, the cross entropy.

    The label ``y`` holds class numbers 0 … K − 1 and has no unit; records without it add nothing.
    With two classes the prediction is the probability of class 1, (graphs,); with more it is the
    probability of every class, (graphs, K).

    The head ``scalar`` has one output per class, as the published CGCNN classifiers have.
    # Differs from Xie & Grossman 2018, whose code drops out after the first hidden layer: here it
    is after the last one, which is the same layer in their models.

    Dropout is drawn anew for each step from the run's seed, so a resumed run repeats it, but the
    draws depend on how a step's records are dealt to workers and micro-batches.

    Args:
        label: Name of the label.
        classes: ``K``.
        hidden: Widths of the head's hidden layers.
        activation: Of the head.
        activate_input: Whether the head starts with the activation (CGCNN does so).
        order: ``late`` pools logits of atoms, ``early`` pools first (CGCNN does so) or reads the
            encoder's crystal vector; ``auto`` is ``early`` for encoders with such a vector and
            ``late`` for the others.
        pool: ``mean``, ``sum`` or ``max`` over atoms; ``null``: ``mean``. Not with an encoder's own
            crystal vector, which is pooled already.
        residual: Whether the head's hidden layers have shortcuts (Roost).
        dropout: Share of the last hidden features that training sets to 0.
        class_weights: A weight for each class: the loss is ``Σ w_y ℓ / Σ w_y``. ``balanced``
            takes ``1 / (K · share)`` of the training split, so that each class counts alike.

    Raises:
        ConfigError: If a name is unknown or a number is impossible.
    """

    plain_view = True

    def __init__(
        self,
        label: str,
        *,
        classes: int = 2,
        hidden: Sequence[int] = (128,),
        activation: ActivationName = "silu",
        activate_input: bool = False,
        order: Order = "auto",
        pool: Pool | None = None,
        residual: bool = False,
        dropout: float = 0.0,
        class_weights: Literal["balanced"] | Sequence[float] | None = None,
    ) -> None:
        if not isinstance(label, str):
            raise ConfigError(f"a classification has one label, got {label!r}")
        if classes < 2:
            raise ConfigError(f"a classification has at least 2 classes, got classes={classes}")
        self.label = label
        self.labels = (label,)
        self.classes = classes
        self.class_counts: Mapping[str, int] = {label: classes}
        self.hidden = tuple(hidden)
        self.activation: ActivationName = activation
        self.activate_input = activate_input
        self.order: Order = order
        self.pool: Pool | None = pool
        self.residual = residual
        self.dropout = dropout
        self.balanced = class_weights == "balanced"
        self._class_weights = _class_weights(class_weights, classes)
        self.units: Mapping[str, str] = {label: ""}

    def heads(self, encoder: Encoder) -> dict[str, nn.Module]:
        """Returns the head ``scalar``, with one output per class."""
        order, width = head_input(encoder, self.order, self.pool)
        head = ScalarHead(
            width,
            self.hidden,
            activation=self.activation,
            activate_input=self.activate_input,
            order=order,
            pool=self.pool or "mean",
            outputs=self.classes,
            residual=self.residual,
            dropout=self.dropout,
        )
        return {"scalar": head}

    def fit(self, table: LabelTable) -> dict[str, Any]:
        """Returns how often each class occurs.

        Raises:
            NeedsError: If the label has a unit, holds anything but class numbers, or fewer than
                two classes occur.
        """
        unit = table.units.get(self.label, "")
        if unit:
            raise NeedsError(
                f"classification wants class numbers, but the label {self.label!r} is a quantity "
                f"in {unit!r}; prepare the data with a label of class numbers, or use "
                "objective=regression"
            )
        values = table.scalar(self.label)[table.present(self.label)]
        self._check(values, "the training split")
        counts = np.bincount(values.astype(np.int64), minlength=self.classes)
        absent = np.flatnonzero(counts == 0).tolist()
        if len(absent) > self.classes - 2:
            raise NeedsError(
                f"classification by {self.label!r} wants records of at least two classes, the "
                f"training split has {counts.tolist()} of the classes 0 … {self.classes - 1}"
            )
        if absent:
            logger.warning("no record of the training split is of class %s", absent)
        frequencies = (counts / counts.sum()).tolist()
        statistics = {"frequencies": {self.label: frequencies}, "units": {self.label: ""}}
        self.adopt(statistics)
        return statistics

    def adopt(self, statistics: Mapping[str, Any]) -> None:
        """Takes over the frequencies, which balanced weights follow; no prediction does."""
        known = statistics.get("frequencies", {}).get(self.label)
        if self.balanced and known:
            # A class that never occurs keeps the weight 1: it can only come up in validation.
            self._class_weights = [1 / (self.classes * share) if share else 1.0 for share in known]

    def views(self, record: CrystalRecord, rng: np.random.Generator) -> tuple[CrystalRecord, ...]:
        """Returns the record as it is.

        Raises:
            NeedsError: If its label is no class number.
        """
        if self.label in record.labels:
            self._check(np.ravel(record.labels[self.label].value), f"record {record.id!r}")
        return (record,)

    def counts(self, views: Views) -> Mapping[str, float]:
        """Returns the weights of the records that carry the label, added up."""
        (batch,) = views
        _, weights = self._numbers_and_weights(batch)
        return {self.label: float(weights.double().sum())}

    def terms(self, model: Model, views: Views) -> Terms:
        """Returns the cross entropy."""
        (batch,) = views
        logits = self._logits(model, batch)
        numbers, weights = self._numbers_and_weights(batch)
        losses = functional.cross_entropy(logits, numbers, reduction="none")
        return {self.label: Term((weights * losses).sum(), self.counts(views)[self.label])}

    def predict(self, model: Model, batch: CrystalBatch) -> dict[str, Tensor]:
        """Returns the probability of class 1, or of every class if there are more than two."""
        probabilities = self._logits(model, batch).softmax(dim=-1)
        return {self.label: probabilities[:, 1] if self.classes == 2 else probabilities}

    def _logits(self, model: Model, batch: CrystalBatch) -> Float[Tensor, "graphs classes"]:
        head = model.head.get_submodule("scalar")
        logits: Tensor = head(model.encoder(batch), batch)
        return logits

    def _numbers_and_weights(
        self, batch: CrystalBatch
    ) -> tuple[Int[Tensor, " graphs"], GraphScalars]:
        """Returns each record's class, and its weight, which is 0 without the label."""
        mask = batch.masks[self.label]
        numbers = where_present(batch.labels[self.label], mask).long()
        weights = batch.positions.new_tensor(self._class_weights)
        return numbers, where_present(weights[numbers], mask)

    def _check(self, values: np.ndarray, where: str) -> None:
        """Refuses what is no class number."""
        whole = (values == np.floor(values)) & (values >= 0) & (values < self.classes)
        if not whole.all():
            raise NeedsError(
                f"the label {self.label!r} of {where} is {values[~whole][0]:g}, expected a class "
                f"number 0 … {self.classes - 1}; set objective.classes to one more than the "
                "largest class number, or use objective=regression for a quantity"
            )


def _class_weights(
    given: Literal["balanced"] | Sequence[float] | None, classes: int
) -> list[float]:
    """Returns the weight of each class, 1 as long as the training split is not known."""
    if given is None or given == "balanced":
        return [1.0] * classes
    if isinstance(given, str):
        raise ConfigError(f"class_weights is {given!r}; {closest(given, ('balanced',))}")
    if len(given) != classes or not all(weight > 0 for weight in given):
        raise ConfigError(
            f"class_weights must hold a number above 0 for each of the {classes} classes, got "
            f"{list(given)}; or be balanced, or null"
        )
    return [float(weight) for weight in given]
