"""SimSiam: from one view of a crystal the vector of the other is predicted."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.nn import functional

from epitaxy.encoders.activations import ActivationName
from epitaxy.encoders.contract import Encoder
from epitaxy.encoders.pooling import crystal_width
from epitaxy.heads.model import Model
from epitaxy.heads.projector import Projector
from epitaxy.objectives.augmentation import Augmentation, MaskedViews
from epitaxy.objectives.contract import Term, Terms, Views
from epitaxy.objectives.twins import TwinViews, vector_of
from epitaxy.shapes import GraphFeatures, GraphScalars


class SimSiam(TwinViews):
    """Cosines between what is predicted from one view and the other view's vector.

    With the crystals' vectors ``c``, predictions ``p = head(c)``, and ``z`` the same ``c`` without
    a gradient ::

        L = −½ [cos(p₁, z₂) + cos(p₂, z₁)],    the mean over crystals

    It is −1 where either view tells the other's direction. Sources: Chen & He, CVPR 2021;
    Crystal Twins (Magar et al., npj Comput. Mater. 8, 231, 2022).
    # Differs from Chen & He: there is no projector, as in the code of Crystal Twins, so ``z`` is
    the vector that fine-tuning starts from.

    Args:
        hidden: Widths of the predictor's hidden layers.
        activation: After each of them.
        atom_mask: Share of atoms (or elements) hidden, rounded down but at least one; 0: none.
        edge_mask: Share of each atom's edges left out, rounded down.
        perturb: Largest distance in Å that an atom is moved by.
        masked_views: ``both``, or ``one``: the first view is the crystal as it is.
        composition: Whether crystals are read as compositions, for encoders of these.

    Raises:
        ConfigError: If a name is unknown or a number is impossible.
    """

    def __init__(
        self,
        hidden: Sequence[int] = (128,),
        *,
        activation: ActivationName = "softplus",
        atom_mask: float = 0.10,
        edge_mask: float = 0.10,
        perturb: float = 0.05,
        masked_views: MaskedViews = "both",
        composition: bool = False,
    ) -> None:
        augmentation = Augmentation(atom_mask, edge_mask, perturb, masked_views, composition)
        super().__init__(augmentation, "simsiam")
        self.hidden = tuple(hidden)
        self.activation: ActivationName = activation

    def heads(self, encoder: Encoder) -> dict[str, nn.Module]:
        """Returns ``predictor``."""
        width = crystal_width(encoder)
        return {"predictor": Projector(width, (*self.hidden, width), self.activation)}

    def terms(self, model: Model, views: Views) -> Terms:
        """Returns ``simsiam``."""
        first, second = (vector_of(model, view) for view in views)
        predictor = model.head["predictor"]
        losses = simsiam_losses(predictor(first), predictor(second), first, second)
        return {self.term: Term(losses.sum(), len(losses))}


def simsiam_losses(
    first_prediction: GraphFeatures,
    second_prediction: GraphFeatures,
    first: GraphFeatures,
    second: GraphFeatures,
) -> GraphScalars:
    """Returns the loss of each crystal; the views' vectors themselves get no gradient.

    Args:
        first_prediction: From the first view, of the second.
        second_prediction: From the second view, of the first.
        first: Vectors of the first views.
        second: Vectors of the second views.
    """
    there = functional.cosine_similarity(first_prediction, second.detach())
    back = functional.cosine_similarity(second_prediction, first.detach())
    return -(there + back) / 2
