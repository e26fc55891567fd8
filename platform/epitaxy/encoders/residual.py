"""Hidden layers with a shortcut (Goodall & Lee, Nat. Commun. 11, 6280, 2020)."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn


class ResidualLayer(nn.Module):
    """``x → a(W x + b) + R x``: (rows, inputs) → (rows, outputs); ``R`` has no bias."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.shortcut = nn.Linear(inputs, outputs, bias=False)

    def forward(
        self, values: Float[Tensor, "rows inputs"], activation: Callable[[Tensor], Tensor]
    ) -> Float[Tensor, "rows outputs"]:
        """Returns the next features; ``activation`` is ``a``."""
        return activation(self.linear(values)) + self.shortcut(values)
