"""What objectives that estimate noise on the positions have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from epitaxy.errors import ConfigError
from epitaxy.graph.batch import CrystalBatch
from epitaxy.graph.record import CrystalRecord, Label, LabelField
from epitaxy.heads.losses import LossName, check_loss, elementwise_loss
from epitaxy.heads.model import Model
from epitaxy.objectives.contract import BaseObjective, Term, Terms, Views
from epitaxy.shapes import Displacements

NOISE = LabelField("noise", "Å", (3,), per_atom=True)
"""How far each atom was moved from where the data set has it."""


class NoiseObjective(BaseObjective, ABC):
    """Shows ``x̃ = x + δ`` with ``δ ~ N(0, σ² 1)`` per atom; the loss is ``mean ℓ(out − a δ)``.

    The mean runs over atoms and components. The lattice stays, graphs are those of ``x̃``, and the
    noise is drawn anew in every epoch from the run's seed and the record's id. Predictions are
    ``out / a``: how far (Å) each atom of a crystal, as given, is from where it belongs.

    No network that keeps its answer when the whole crystal is shifted can know the mean of ``δ``,
    which holds a share 1/atoms of the variance. ``remove_mean`` takes it away, so that a crystal
    of one atom has no noise at all.

    Args:
        sigma: ``σ``, Å.
        remove_mean: Whether the mean of ``δ`` over a crystal's atoms is subtracted.
        loss: ``ℓ``: ``l1``, ``mse``, ``huber`` or ``smooth_l1``.
        delta: Where ``huber`` and ``smooth_l1`` turn linear, in units of ``a δ``.
        factor: ``a``, 1/Å.

    Raises:
        ConfigError: If ``sigma`` is not positive or the loss is unknown.
    """

    made = (NOISE,)
    units: Mapping[str, str] = {NOISE.name: NOISE.unit}
    needs_structures = True

    def __init__(
        self, *, sigma: float, remove_mean: bool, loss: LossName, delta: float, factor: float
    ) -> None:
        check_loss(loss, delta)
        self.sigma = check_sigma(sigma)
        self.remove_mean = remove_mean
        self.loss: LossName = loss
        self.delta = delta
        self.factor = factor

    def views(self, record: CrystalRecord, rng: np.random.Generator) -> tuple[CrystalRecord, ...]:
        """Returns the record with noised positions, and the noise as its only label.

        What was computed or measured for the crystal does not hold for the noised one.
        """
        noise = rng.normal(0.0, self.sigma, record.positions.shape)
        if self.remove_mean:
            noise -= noise.mean(0)
        label = Label(noise, NOISE.unit, per_atom=True)
        # The label's fp32 value, so that it is exactly what was added.
        positions = record.positions + label.value
        return (record.replace(positions=positions, labels={NOISE.name: label}),)

    def counts(self, views: Views) -> Mapping[str, float]:
        """Returns the number of components, three per atom."""
        (batch,) = views
        return {NOISE.name: 3 * len(batch.numbers)}

    def terms(self, model: Model, views: Views) -> Terms:
        """Returns the one term, of weight 1."""
        (batch,) = views
        error = self._output(model, batch) - self.factor * batch.labels[NOISE.name]
        total = elementwise_loss(self.loss, error, self.delta).sum()
        return {NOISE.name: Term(total, self.counts(views)[NOISE.name])}

    @torch.no_grad()
    def predict(self, model: Model, batch: CrystalBatch) -> dict[str, Tensor]:
        """Returns the estimated ``noise`` of a crystal as given, Å."""
        return {NOISE.name: self._output(model, batch) / self.factor}

    @abstractmethod
    def _output(self, model: Model, batch: CrystalBatch) -> Displacements:
        """Returns the estimate of ``a δ``."""


def check_sigma(sigma: float) -> float:
    """Returns the width of the noise, Å.

    Raises:
        ConfigError: If it is not positive.
    """
    if not 0 < sigma < float("inf"):
        raise ConfigError(f"sigma, the noise's standard deviation in Å, must be > 0, got {sigma}")
    return sigma
