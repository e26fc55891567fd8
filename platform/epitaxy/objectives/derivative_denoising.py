"""Pre-training on noised positions by the slope of an energy (``force_pretraining``, eq. 5)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal, cast

import torch
from torch import nn

from epitaxy.encoders.activations import ActivationName, smooth_activation
from epitaxy.encoders.contract import Encoder
from epitaxy.errors import ConfigError, closest
from epitaxy.graph.batch import CrystalBatch
from epitaxy.heads.derivatives import energy_and_derivatives
from epitaxy.heads.energy import ROLE, energy_head, network_energy
from epitaxy.heads.losses import LossName
from epitaxy.heads.model import Model
from epitaxy.heads.scalar import Order
from epitaxy.objectives.noise import NoiseObjective, check_sigma
from epitaxy.shapes import Displacements, Forces

Constant = Literal["inverse_sigma", "one", "inverse_variance"]


class DerivativeDenoising(NoiseObjective):
    """Forces point back to where the atoms came from: ``F = −∂E/∂x̃``, ``L = mean ℓ(F − (−c δ))``.

    Crystals at rest lie where the energy is lowest. If their positions were known up to Gaussian
    noise, ``−log p(x̃)`` would be that energy, with the slope ``δ/σ²``. The network's ``E`` is such
    an energy up to a factor: it has no unit, and the edges are those of ``x̃``. See
    ``NoiseObjective`` for the noise, the label ``noise`` and the predictions, ``−F / c``.

    The head ``scalar`` is that of ``energy_force_stress`` without its scale and element reference,
    so weights go from one to the other. Nothing here learns the constant of the energy: the bias
    of the head's last layer keeps its initial value.

    # Differs from force_pretraining, which leaves ``c`` open: ``inverse_sigma`` gives targets of
    unit variance, ``inverse_variance`` is the slope above.

    Args:
        sigma: Standard deviation of the noise, Å.
        remove_mean: Whether the mean of the noise over a crystal's atoms is subtracted. Forces
            add up to zero, so they cannot follow it.
        constant: ``c``: ``inverse_sigma`` (1/σ), ``one`` or ``inverse_variance`` (1/σ²).
        loss: ``l1``, ``mse`` (score matching), ``huber`` or ``smooth_l1``, in units of ``c δ``.
        delta: Where ``huber`` and ``smooth_l1`` turn linear, in units of ``c δ``.
        hidden: Widths of the head's hidden layers.
        activation: Of the head; twice differentiable.
        order: Of the head's network and its pooling; only ``late`` is extensive.
        allow_coupling: Whether to accept encoders with batch norm, through which the energy of
            one crystal depends on the others of its batch.

    Raises:
        ConfigError: If a name is unknown or ``sigma`` is not positive.
    """

    requires = frozenset({"node", "position_grad"})

    def __init__(
        self,
        *,
        sigma: float = 0.1,
        remove_mean: bool = False,
        constant: Constant = "inverse_sigma",
        loss: LossName = "l1",
        delta: float = 1.0,
        hidden: Sequence[int] = (128,),
        activation: ActivationName = "silu",
        order: Order = "late",
        allow_coupling: bool = False,
    ) -> None:
        width = check_sigma(sigma)
        factors = {"inverse_sigma": 1 / width, "one": 1.0, "inverse_variance": 1 / width**2}
        if constant not in factors:
            raise ConfigError(f"constant is {constant!r}; {closest(constant, factors)}")
        super().__init__(
            sigma=sigma,
            remove_mean=remove_mean,
            loss=loss,
            delta=delta,
            factor=factors[constant],
        )
        smooth_activation(activation)
        self.hidden = tuple(hidden)
        self.activation: ActivationName = activation
        self.order: Order = order
        self.forbids_coupling = not allow_coupling

    def heads(self, encoder: Encoder) -> dict[str, nn.Module]:
        """Returns one scalar head: energy of an atom, summed over the crystal."""
        return {ROLE: energy_head(encoder, self.hidden, self.activation, self.order)}

    def _output(self, model: Model, batch: CrystalBatch) -> Displacements:
        _, forces, _ = energy_and_derivatives(
            partial(network_energy, model),
            batch,
            forces=True,
            stress=False,
            create_graph=torch.is_grad_enabled(),
        )
        return -cast(Forces, forces)
