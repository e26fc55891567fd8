"""From a crystal's vector to another one, which pre-training compares and fine-tuning drops."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn

from epitaxy.encoders.activations import ActivationName, activation
from epitaxy.errors import ConfigError
from epitaxy.shapes import GraphFeatures


class Projector(nn.Module):
    """Linear layers with activations between them: (graphs, width) → (graphs, widths[-1]).

    Parameters are ``hidden.{i}`` and ``out``.

    Args:
        width: Features of the crystal's vector.
        widths: Of the layers; the last has no activation.
        activation_name: Of the others.

    Raises:
        ConfigError: If the activation is unknown or a width is not positive.
    """

    def __init__(self, width: int, widths: Sequence[int], activation_name: ActivationName) -> None:
        super().__init__()
        if not widths or min(widths) < 1:
            raise ConfigError(f"a projector's layers need widths ≥ 1, got {list(widths)}")
        self.activation = activation(activation_name)
        every = (width, *widths)
        *hidden, out = (nn.Linear(before, after) for before, after in pairwise(every))
        self.hidden = nn.ModuleList(hidden)
        self.out = out

    def forward(self, vector: GraphFeatures) -> Float[Tensor, "graphs outputs"]:
        """Returns the projections."""
        for layer in self.hidden:
            vector = self.activation(layer(vector))
        projected: Tensor = self.out(vector)
        return projected
