"""Barlow Twins: two views of a crystal should agree, and the features say different things."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from epitaxy.encoders.activations import ActivationName
from epitaxy.encoders.contract import Encoder
from epitaxy.encoders.pooling import crystal_width
from epitaxy.errors import ConfigError
from epitaxy.heads.model import Model
from epitaxy.heads.projector import Projector
from epitaxy.objectives.augmentation import Augmentation, MaskedViews
from epitaxy.objectives.contract import Coupling, Rows, Terms, Views
from epitaxy.objectives.twins import TwinViews, vector_of
from epitaxy.shapes import GraphFeatures

EPSILON = 1e-5
"""Added to variances, as PyTorch's batch norm does."""


class BarlowTwins(TwinViews):
    """Cross-correlation of the features of two views, drawn to the identity.

    With the projections ``z`` of the crystals' vectors, each feature standardised over the ``B``
    crystals of the whole step (all workers and micro-batches) ::

        C = z₁ᵀ z₂ / B,    L = Σ_k (C_kk − 1)² + λ Σ_{k≠l} C_kl²

    Sources: Zbontar et al., ICML 2021; Crystal Twins (Magar et al., npj Comput. Mater. 8, 231,
    2022) for structures; the self-supervision of ``roost_pretraining`` for compositions.
    # Differs from the codes of both, which divide by the configured batch size even where the last
    batch of an epoch holds fewer crystals: here ``B`` is their true number.

    Args:
        hidden: Widths of the projector's hidden layers.
        width: ``K``, features of the projections.
        activation: After each hidden layer.
        unit_length: Whether each projection is scaled to length 1 first (Crystal Twins does so,
            ``roost_pretraining`` does not).
        redundancy_weight: ``λ``.
        atom_mask: Share of atoms (or elements) hidden, rounded down but at least one; 0: none.
        edge_mask: Share of each atom's edges left out, rounded down.
        perturb: Largest distance in Å that an atom is moved by.
        masked_views: ``both``, or ``one``: the first view is the crystal as it is.
        composition: Whether crystals are read as compositions, for encoders of these.

    Raises:
        ConfigError: If a name is unknown or a number is impossible.
    """

    couples_records = True

    def __init__(
        self,
        hidden: Sequence[int] = (128,),
        width: int = 256,
        *,
        activation: ActivationName = "softplus",
        unit_length: bool = True,
        redundancy_weight: float = 0.0051,
        atom_mask: float = 0.10,
        edge_mask: float = 0.10,
        perturb: float = 0.05,
        masked_views: MaskedViews = "both",
        composition: bool = False,
    ) -> None:
        augmentation = Augmentation(atom_mask, edge_mask, perturb, masked_views, composition)
        super().__init__(augmentation, "barlow_twins")
        if width < 1 or redundancy_weight < 0:
            raise ConfigError(
                "Barlow Twins needs width ≥ 1 and redundancy_weight ≥ 0, got "
                f"{width} and {redundancy_weight}"
            )
        self.hidden = tuple(hidden)
        self.width = width
        self.activation: ActivationName = activation
        self.unit_length = unit_length
        self.redundancy_weight = redundancy_weight

    def heads(self, encoder: Encoder) -> dict[str, nn.Module]:
        """Returns ``projector``."""
        widths = (*self.hidden, self.width)
        return {"projector": Projector(crystal_width(encoder), widths, self.activation)}

    def terms(self, model: Model, views: Views) -> Terms:
        """Returns ``barlow_twins``, coupled over the crystals of the step."""
        first, second = (model.head["projector"](vector_of(model, view)) for view in views)
        if self.unit_length:
            first, second = functional.normalize(first), functional.normalize(second)
        return {self.term: Coupling({"first": first, "second": second}, self._loss)}

    def _loss(self, rows: Rows) -> Tensor:
        return barlow_twins_loss(rows["first"], rows["second"], self.redundancy_weight)


def barlow_twins_loss(
    first: GraphFeatures,
    second: GraphFeatures,
    redundancy_weight: float,
    divisor: int | None = None,
) -> Tensor:
    """Returns the loss of two views' projections, a scalar.

    A single crystal has no variance: its features are standardised to 0, and the loss is the
    number of features, without a slope. Without crystals it is 0.

    Args:
        first: Projections of the first views.
        second: Of the second views, in the same order.
        redundancy_weight: ``λ``.
        divisor: Of the correlations, if not the number of crystals.
    """
    if not len(first):
        return first.sum() + second.sum()
    correlation = _standardised(first).T @ _standardised(second) / (divisor or len(first))
    agreement = correlation.diagonal()
    redundancy = correlation - torch.diag(agreement)
    return (agreement - 1).square().sum() + redundancy_weight * redundancy.square().sum()


def _standardised(rows: GraphFeatures) -> GraphFeatures:
    """Returns features of mean 0 and (biased) variance 1 over the crystals."""
    centred = rows - rows.mean(0)
    return centred * torch.rsqrt(centred.square().mean(0) + EPSILON)
