"""Pre-training by predicting the noise on atomic positions (``force_pretraining``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import nn

from epitaxy.encoders.activations import ActivationName
from epitaxy.encoders.contract import Encoder
from epitaxy.errors import ConfigError, closest
from epitaxy.graph.batch import CrystalBatch
from epitaxy.heads.losses import LossName
from epitaxy.heads.model import Model
from epitaxy.heads.vector import ComponentHead, VectorHead
from epitaxy.objectives.noise import NoiseObjective, check_sigma
from epitaxy.shapes import Displacements

HeadName = Literal["auto", "scalar", "equivariant"]
TargetScale = Literal["sigma", "one"]


class Denoising(NoiseObjective):
    """A head names the noise ``δ`` that moved each atom: ``L = mean ℓ(head − δ / s)``.

    For data of crystals at rest: there the noise tells where the energy's minimum lies. See
    ``NoiseObjective`` for the noise, the label ``noise`` and the predictions.

    The ``equivariant`` head (role ``vector``) reads the encoder's vectors, so what it names turns
    with the crystal. The ``scalar`` head (role ``noise``) is that of the paper's models: three
    numbers from states that a rotation leaves alone. ``δ`` turns, they do not, so it learns no
    more than what the setting of the cells gives away, and stays close to 0. Naming 0 throughout
    costs 0.80 (l1) or 1 (mse) if ``s = σ``.

    # Differs from force_pretraining, which predicts ``δ`` itself (``target_scale: one``) and reads
    scalar states even of the equivariant transformer (``head: scalar``).

    Args:
        sigma: Standard deviation of the noise, Å.
        remove_mean: Whether the mean of the noise over a crystal's atoms is subtracted.
        head: ``equivariant``, ``scalar``, or ``auto``: whichever the encoder has states for,
            preferably the former.
        target_scale: ``s``: ``sigma`` (targets of unit variance) or ``one`` (targets in Å).
        loss: ``l1``, ``mse``, ``huber`` or ``smooth_l1``, in units of ``δ / s``.
        delta: Where ``huber`` and ``smooth_l1`` turn linear, in units of ``δ / s``.
        hidden: Widths of the head's hidden layers.
        activation: Of the head.

    Raises:
        ConfigError: If a name is unknown or ``sigma`` is not positive.
    """

    def __init__(
        self,
        *,
        sigma: float = 0.1,
        remove_mean: bool = False,
        head: HeadName = "auto",
        target_scale: TargetScale = "sigma",
        loss: LossName = "l1",
        delta: float = 1.0,
        hidden: Sequence[int] = (128,),
        activation: ActivationName = "silu",
    ) -> None:
        factors = {"sigma": 1 / check_sigma(sigma), "one": 1.0}
        for argument, value, choices in (
            ("head", head, ("auto", "scalar", "equivariant")),
            ("target_scale", target_scale, tuple(factors)),
        ):
            if value not in choices:
                raise ConfigError(f"{argument} is {value!r}; {closest(value, choices)}")
        super().__init__(
            sigma=sigma,
            remove_mean=remove_mean,
            loss=loss,
            delta=delta,
            factor=factors[target_scale],
        )
        self.head: HeadName = head
        self.hidden = tuple(hidden)
        self.activation: ActivationName = activation
        self.requires = frozenset({"node", "vector"} if head == "equivariant" else {"node"})

    def heads(self, encoder: Encoder) -> dict[str, nn.Module]:
        """Returns ``vector`` for an equivariant head, ``noise`` for a scalar one."""
        role = self._role(encoder)
        if role == "vector":
            widths = (encoder.node_width, encoder.vector_width)
            return {role: VectorHead(*widths, self.hidden, activation=self.activation)}
        return {role: ComponentHead(encoder.node_width, self.hidden, activation=self.activation)}

    def _output(self, model: Model, batch: CrystalBatch) -> Displacements:
        result: Displacements = model.head[self._role(model.encoder)](model.encoder(batch))
        return result

    def _role(self, encoder: Encoder) -> str:
        vectors = self.head == "auto" and "vector" in encoder.provides
        return "vector" if vectors or self.head == "equivariant" else "noise"
