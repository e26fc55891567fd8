"""Supervised regression of one or several scalar labels, any of which a record may lack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

from epitaxy.encoders.activations import ActivationName
from epitaxy.encoders.contract import Encoder
from epitaxy.encoders.pooling import Pool
from epitaxy.errors import ConfigError, NeedsError
from epitaxy.graph.batch import CrystalBatch
from epitaxy.graph.labels import LabelTable
from epitaxy.graph.record import AMOUNT
from epitaxy.heads.losses import (
    ELEMENTWISE,
    ROBUST,
    LossName,
    RobustName,
    check_loss,
    elementwise_loss,
    robust_loss,
    where_present,
)
from epitaxy.heads.model import Model
from epitaxy.heads.scalar import Order, ScalarHead, head_input
from epitaxy.objectives.contract import BaseObjective, Terms, Views
from epitaxy.objectives.label_choice import chosen_labels, label_weights
from epitaxy.objectives.normalizers import (
    Normalizer,
    NormalizerName,
    Statistics,
    normalizer_names,
)
from epitaxy.objectives.reduction import Reduction, ReductionName
from epitaxy.shapes import GraphScalars

_STATISTICS = ("mean", "std", "smallest", "largest")


class Regression(BaseObjective):
    """Scalar labels ``y`` from crystals: ``ℓ(out − t(y))`` over the records that have the label.

    ``t`` is the normaliser of the label (see ``Normalizer``), whose statistics are those of the
    training split. Predictions are in the label's unit. With ``extensive``, the label is a sum
    over atoms: ``t`` works on ``y / atoms`` and the atoms' contributions are added up, not
    averaged.

    One label is read by the head ``scalar`` (so a force pre-training's head fits), several by
    ``property.<label>`` or, with ``shared``, by one head ``shared`` with an output each. Each
    label is one term of the loss.

    With ``robust_l1``, ``robust_l2`` and ``nll`` the network also predicts the logarithm of the
    standard deviation of its error (Roost, Goodall & Lee 2020): ``<label>_std`` is then a further
    prediction, in the label's unit.

    Args:
        label: Name of the label, or a list of names.
        leave_out: Which of them to do without: neither head nor loss sees it, so that a model can
            be pre-trained on the others and fine-tuned on this one (pt_ft_pairs).
        normalizer: ``zscore``, ``std_then_minmax``, ``minmax``, ``log10`` or ``none``, for all
            labels or by label.
        loss: ``l1``, ``mse``, ``huber``, ``smooth_l1``, ``robust_l1``, ``robust_l2`` or ``nll``,
            in normalised units.
        delta: Where ``huber`` and ``smooth_l1`` turn linear, in normalised units.
        weights: Of the labels' terms, by label; 1 for a label without an entry.
        reduction: What the loss of a label is divided by, see ``Reduction``: the records that
            have it (``per_label``), all records (``fixed``), or each record by its own number
            of labels (``available``).
        extensive: Whether the labels grow with the number of atoms.
        shared: Whether the labels share the hidden layers of one head (layer_transfer's combined
            model), instead of a head each.
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
        leave_out: str | Sequence[str] | None = None,
        normalizer: NormalizerName | Mapping[str, NormalizerName] = "zscore",
        loss: LossName | RobustName = "l1",
        delta: float = 1.0,
        weights: Mapping[str, float] | None = None,
        reduction: ReductionName = "per_label",
        extensive: bool = False,
        shared: bool = False,
        hidden: Sequence[int] = (128,),
        activation: ActivationName = "silu",
        activate_input: bool = False,
        order: Order = "auto",
        pool: Pool | None = None,
        residual: bool = False,
    ) -> None:
        given, self.labels = chosen_labels(label, leave_out)
        check_loss(loss, delta, (*ELEMENTWISE, *ROBUST))
        names = normalizer_names(normalizer, given)
        self.normalizers = {name: Normalizer(names[name]) for name in self.labels}
        self.reduction: ReductionName = reduction
        self._reduction = Reduction(reduction, self.labels, label_weights(weights, given))
        self.loss: LossName | RobustName = loss
        self.robust = loss in ROBUST
        self.deviations = {name: f"{name}_std" for name in self.labels if self.robust}
        self.delta = delta
        self.extensive = extensive
        self._check_combination()
        self.role = "scalar" if len(self.labels) == 1 else "shared" if shared else "property"
        self.hidden = tuple(hidden)
        self.activation: ActivationName = activation
        self.activate_input = activate_input
        self.order: Order = order
        self.pool: Pool | None = pool
        self.residual = residual
        self.units: Mapping[str, str] = {}

    def heads(self, encoder: Encoder) -> dict[str, nn.Module]:
        """Returns ``scalar`` for one label, ``shared`` or ``property`` for several."""
        order, width = head_input(encoder, self.order, self.pool)

        def head(outputs: int) -> ScalarHead:
            return ScalarHead(
                width,
                self.hidden,
                activation=self.activation,
                activate_input=self.activate_input,
                order=order,
                pool=self.pool or ("sum" if self.extensive else "mean"),
                outputs=outputs,
                residual=self.residual,
            )

        if self.role == "property":
            return {"property": nn.ModuleDict({name: head(self._numbers) for name in self.labels})}
        return {self.role: head(self._numbers * len(self.labels))}

    def fit(self, table: LabelTable) -> dict[str, Any]:
        """Returns (and adopts) the statistics of each label.

        Raises:
            NeedsError: If no record of the training split has the label, or ``log10`` meets a
                value that is not positive.
        """
        fitted = {name: self._fit_label(table, name) for name in self.labels}
        statistics: dict[str, Any] = {
            key: {name: getattr(fitted[name].statistics, key) for name in self.labels}
            for key in _STATISTICS
        }
        statistics["units"] = {name: table.units.get(name, "") for name in self.labels}
        self.adopt(statistics)
        return statistics

    def adopt(self, statistics: Mapping[str, Any]) -> None:
        """Takes over statistics and ``units`` by label."""
        known = [key for key in _STATISTICS if key in statistics]  # older folders lack the range
        for name, normalizer in self.normalizers.items():
            numbers = {key: float(statistics[key][name]) for key in known}
            self.normalizers[name] = replace(normalizer, statistics=Statistics(**numbers))
        units = {name: str(statistics["units"][name]) for name in self.labels}
        self.units = units | {std: units[name] for name, std in self.deviations.items()}

    @property
    def training_means(self) -> dict[str, float]:
        """Mean of the training labels, in their unit, of those labels of which it is known."""
        if self.extensive:
            return {}
        return {
            name: normalizer.statistics.mean
            for name, normalizer in self.normalizers.items()
            if normalizer.name not in ("log10", "none")
        }

    @property
    def ranges(self) -> dict[str, float]:
        """What a normalised error of 1 is in the label's unit, where the labels' range sets it."""
        return {
            name: normalizer.scale
            for name, normalizer in self.normalizers.items()
            if normalizer.is_range and not self.extensive
        }

    def counts(self, views: Views) -> Mapping[str, float]:
        """Returns what each label's loss is divided by."""
        (batch,) = views
        return self._reduction.counts(batch)

    def terms(self, model: Model, views: Views) -> Terms:
        """Returns one term per label."""
        (batch,) = views
        outputs = self._outputs(model, batch)
        losses = {name: self._losses(name, output, batch) for name, output in outputs.items()}
        return self._reduction.terms(losses, batch)

    def predict(self, model: Model, batch: CrystalBatch) -> dict[str, Tensor]:
        """Returns each label in its own unit, and ``<label>_std`` if the network gives it."""
        predictions = {}
        for name, output in self._outputs(model, batch).items():
            normalizer, mean = self.normalizers[name], output[:, 0]
            restored = normalizer.restored(mean)
            predictions[name] = restored * batch.sizes if self.extensive else restored
            if self.robust:
                std = normalizer.deviation(mean, output[:, 1].exp())
                predictions[self.deviations[name]] = std
        return predictions

    @property
    def _numbers(self) -> int:
        """How many numbers the network gives for each label."""
        return 2 if self.robust else 1

    def _fit_label(self, table: LabelTable, name: str) -> Normalizer:
        rows = table.present(name)
        values = table.scalar(name)[rows]
        if self.extensive:
            _refuse_compositions(table, name)
            values = values / table.num_atoms[rows]
        return Normalizer.fit(self.normalizers[name].name, values, name)

    def _outputs(
        self, model: Model, batch: CrystalBatch
    ) -> dict[str, Float[Tensor, "graphs numbers"]]:
        """Returns the network's numbers in normalised units (per atom if extensive).

        The first is the prediction; the second, if there is one, the logarithm of its deviation.
        """
        encoding = model.encoder(batch)

        def read(role: str, labels: int) -> Float[Tensor, "graphs numbers labels"]:
            head = cast(ScalarHead, model.head.get_submodule(role))
            output = head(encoding, batch).reshape(batch.num_graphs, self._numbers, labels)
            total = self.extensive and head.adds_up(encoding)
            return output / batch.sizes[:, None, None] if total else output

        if self.role == "property":
            return {name: read(f"property.{name}", 1).squeeze(-1) for name in self.labels}
        together = read(self.role, len(self.labels))
        return {name: together[..., place] for place, name in enumerate(self.labels)}

    def _losses(
        self, name: str, output: Float[Tensor, "graphs numbers"], batch: CrystalBatch
    ) -> GraphScalars:
        """Returns the loss of each record; that of one without the label means nothing."""
        mask = batch.masks[name]
        values = where_present(batch.labels[name], mask, 1.0)
        if self.extensive:
            values = values / batch.sizes
        error = output[:, 0] - self.normalizers[name].normalised(values)
        if self.robust:
            return robust_loss(cast(RobustName, self.loss), error, output[:, 1])
        return elementwise_loss(cast(LossName, self.loss), error, self.delta)

    def _check_combination(self) -> None:
        """Refuses options that contradict each other."""
        logarithmic = [
            n for n, normalizer in self.normalizers.items() if normalizer.name == "log10"
        ]
        if self.extensive and logarithmic:
            raise ConfigError("log10 of an extensive label is not additive: use zscore or none")
        if self.extensive and self.robust:
            raise ConfigError(
                f"loss={self.loss} predicts a deviation, and that of a sum over atoms is not the "
                "sum of theirs: use a label per atom with extensive=false, or loss=huber"
            )
        clashing = sorted(set(self.labels) & set(self.deviations.values()))
        if clashing:
            raise ConfigError(
                f"loss={self.loss} predicts the deviation of {clashing[0].removesuffix('_std')!r} "
                f"as {clashing[0]!r}, which is a label as well: leave it out"
            )


def _refuse_compositions(table: LabelTable, name: str) -> None:
    """Refuses what grows with a number of atoms that a formula does not tell."""
    amounts = table.root_mean_square.get(AMOUNT)
    if amounts is not None and not np.isnan(amounts).all():
        raise NeedsError(
            f"extensive=true divides {name!r} by the number of atoms, which compositions do not "
            "tell (Fe2O3 and Fe4O6 are one); prepare the label per atom, or use structures"
        )
