"""Supervised regression of one or several scalar labels, any of which a record may lack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from epitaxy.encoders.activations import ActivationName
from epitaxy.encoders.contract import Encoder
from epitaxy.encoders.pooling import Pool
from epitaxy.errors import ConfigError, NeedsError, closest
from epitaxy.graph.batch import CrystalBatch
from epitaxy.graph.labels import LabelTable
from epitaxy.graph.record import AMOUNT, CrystalRecord
from epitaxy.heads.losses import LossName, check_loss, elementwise_loss
from epitaxy.heads.model import Model
from epitaxy.heads.scalar import Order, ScalarHead, head_input
from epitaxy.objectives.contract import BaseObjective, Term, Terms
from epitaxy.shapes import GraphScalars

Normalizer = Literal["zscore", "log10", "none"]


class Regression(BaseObjective):
    """Scalar labels ``y`` from crystals: ``ℓ(out − t(y))`` over the records that have the label.

    ``t`` is ``(y − mean) / std`` with the mean and unbiased standard deviation of the training
    split (``zscore``), the same of ``log₁₀ y`` (``log10``), or the identity (``none``).
    Predictions are in the label's unit. With ``extensive``, the label is a sum over atoms:
    ``t`` works on ``y / atoms`` and the atoms' contributions are added up, not averaged.

    One label is read by the head ``scalar`` (so a force pre-training's head fits), several by
    ``property.<label>``, and each is one term of the loss.

    Args:
        label: Name of the label, or a list of names.
        normalizer: ``zscore``, ``log10`` or ``none``.
        loss: ``l1``, ``mse``, ``huber`` or ``smooth_l1``, in normalised units.
        delta: Where ``huber`` and ``smooth_l1`` turn linear, in normalised units.
        extensive: Whether the label grows with the number of atoms.
        hidden: Widths of the head's hidden layers.
        activation: Of the head.
        activate_input: Whether the head starts with the activation (CGCNN does so).
        order: ``late`` predicts per atom and pools, ``early`` pools first (CGCNN does so) or reads
            the encoder's crystal vector; ``auto`` is ``early`` for encoders with such a vector
            and ``late`` for the others.
        pool: ``mean``, ``sum`` or ``max`` over atoms; ``null``: ``sum`` if ``extensive``, else
            ``mean``. Not with an encoder's own crystal vector, which is pooled already.
        residual: Whether the head's hidden layers have shortcuts (Roost).

    Raises:
        ConfigError: If a name is unknown or options contradict each other.
    """

    def __init__(
        self,
        label: str | Sequence[str],
        *,
        normalizer: Normalizer = "zscore",
        loss: LossName = "l1",
        delta: float = 1.0,
        extensive: bool = False,
        hidden: Sequence[int] = (128,),
        activation: ActivationName = "silu",
        activate_input: bool = False,
        order: Order = "auto",
        pool: Pool | None = None,
        residual: bool = False,
    ) -> None:
        self.labels = (label,) if isinstance(label, str) else tuple(label)
        _check_labels(self.labels)
        if normalizer not in ("zscore", "log10", "none"):
            hint = closest(normalizer, ("zscore", "log10", "none"))
            raise ConfigError(f"unknown normalizer {normalizer!r}; {hint}")
        if extensive and normalizer == "log10":
            raise ConfigError("log10 of an extensive label is not additive: use zscore or none")
        check_loss(loss, delta)
        self.normalizer: Normalizer = normalizer
        self.loss: LossName = loss
        self.delta = delta
        self.extensive = extensive
        self.hidden = tuple(hidden)
        self.activation: ActivationName = activation
        self.activate_input = activate_input
        self.order: Order = order
        self.pool: Pool | None = pool
        self.residual = residual
        self.units: Mapping[str, str] = {}
        self._mean = dict.fromkeys(self.labels, 0.0)
        self._std = dict.fromkeys(self.labels, 1.0)

    def heads(self, encoder: Encoder) -> dict[str, nn.Module]:
        """Returns ``scalar`` for one label, ``property`` with a head per label for several."""
        order, width = head_input(encoder, self.order, self.pool)
        heads = {
            name: ScalarHead(
                width,
                self.hidden,
                activation=self.activation,
                activate_input=self.activate_input,
                order=order,
                pool=self.pool or ("sum" if self.extensive else "mean"),
                residual=self.residual,
            )
            for name in self.labels
        }
        if len(self.labels) == 1:
            return {"scalar": heads[self.labels[0]]}
        return {"property": nn.ModuleDict(heads)}

    def fit(self, table: LabelTable) -> dict[str, Any]:
        """Returns (and adopts) mean and standard deviation of each label.

        Raises:
            NeedsError: If no record of the training split has the label, or ``log10`` meets a
                value that is not positive.
        """
        mean, std = {}, {}
        for name in self.labels:
            mean[name], std[name] = self._fit_label(table, name)
        units = {name: table.units.get(name, "") for name in self.labels}
        statistics = {"mean": mean, "std": std, "units": units}
        self.adopt(statistics)
        return statistics

    def adopt(self, statistics: Mapping[str, Any]) -> None:
        """Takes over ``mean``, ``std`` and ``units`` by label."""
        self._mean = {name: float(statistics["mean"][name]) for name in self.labels}
        self._std = {name: float(statistics["std"][name]) for name in self.labels}
        self.units = {name: str(statistics["units"][name]) for name in self.labels}

    def views(self, record: CrystalRecord, rng: np.random.Generator) -> tuple[CrystalRecord, ...]:
        """Returns the record as it is."""
        return (record,)

    def counts(self, views: tuple[CrystalBatch, ...]) -> Mapping[str, float]:
        """Returns how many records carry each label."""
        (batch,) = views
        return {name: int(batch.masks[name].sum()) for name in self.labels}

    def terms(self, model: Model, views: tuple[CrystalBatch, ...]) -> Terms:
        """Returns one term per label, each of weight 1."""
        (batch,) = views
        counts = self.counts(views)
        outputs = self._outputs(model, batch)
        terms = {}
        for name, output in outputs.items():
            error = output - self._normalised(name, batch)
            losses = elementwise_loss(self.loss, error, self.delta)
            total = torch.where(batch.masks[name], losses, 0.0).sum()
            terms[name] = Term(total, counts[name])
        return terms

    def predict(self, model: Model, batch: CrystalBatch) -> dict[str, Tensor]:
        """Returns each label in its own unit."""
        return {
            name: self._restored(name, output, batch)
            for name, output in self._outputs(model, batch).items()
        }

    def _fit_label(self, table: LabelTable, name: str) -> tuple[float, float]:
        rows = table.present(name)
        if not rows.any():
            raise NeedsError(
                f"regression wants the label {name!r}, but no record of the training split has it"
            )
        values = table.scalar(name)[rows]
        if self.normalizer == "none":
            return 0.0, 1.0
        if self.extensive:
            _refuse_compositions(table, name)
            values = values / table.num_atoms[rows]
        if self.normalizer == "log10":
            if not (values > 0).all():
                raise NeedsError(
                    f"log10 of {name!r} needs positive values, the training split has "
                    f"{values.min()}; use normalizer=zscore"
                )
            values = np.log10(values)
        std = float(values.std(ddof=1)) if len(values) > 1 else 0.0
        return float(values.mean()), std if std > 0 else 1.0

    def _outputs(self, model: Model, batch: CrystalBatch) -> dict[str, GraphScalars]:
        """Returns the network's numbers in normalised units (per atom if extensive)."""
        encoding = model.encoder(batch)
        outputs = {}
        for name in self.labels:
            role = "scalar" if len(self.labels) == 1 else f"property.{name}"
            head = cast(ScalarHead, model.head.get_submodule(role))
            output = head(encoding, batch)
            total = self.extensive and head.adds_up(encoding)
            outputs[name] = output / batch.sizes if total else output
        return outputs

    def _normalised(self, name: str, batch: CrystalBatch) -> GraphScalars:
        values = batch.labels[name]
        if self.extensive:
            values = values / batch.sizes
        if self.normalizer == "log10":
            values = torch.where(batch.masks[name], values, 1.0).log10()
        return (values - self._mean[name]) / self._std[name]

    def _restored(self, name: str, output: GraphScalars, batch: CrystalBatch) -> GraphScalars:
        values = output * self._std[name] + self._mean[name]
        if self.normalizer == "log10":
            values = 10.0**values
        return values * batch.sizes if self.extensive else values


def _refuse_compositions(table: LabelTable, name: str) -> None:
    """Refuses what grows with a number of atoms that a formula does not tell."""
    amounts = table.root_mean_square.get(AMOUNT)
    if amounts is not None and not np.isnan(amounts).all():
        raise NeedsError(
            f"extensive=true divides {name!r} by the number of atoms, which compositions do not "
            "tell (Fe2O3 and Fe4O6 are one); prepare the label per atom, or use structures"
        )


def _check_labels(labels: Sequence[str]) -> None:
    if not labels or len(set(labels)) < len(labels):
        raise ConfigError(f"label must name at least one label, each once, got {list(labels)}")
    dotted = [name for name in labels if "." in name]
    if dotted and len(labels) > 1:
        raise ConfigError(f"labels of several heads must not contain a dot: rename {dotted}")
