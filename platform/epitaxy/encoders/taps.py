"""Places in an encoder where what it weighs can be read off: attention, gates, masks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from torch import Tensor, nn

Over = Literal["atoms", "edges", "angles", "features"]


class Tap(nn.Module):
    """Passes a tensor of weights on; whoever wants to see it listens (``tapped``).

    Args:
        over: What the rows of the tensor belong to: atoms, directed edges, angles (pairs of edges)
            or element features. Other axes, such as attention heads, are averaged by who draws.
        name: What the weights are, in two or three words.
        before_envelope: Whether the encoder's ``envelope`` multiplies the weights afterwards: of
            the edge, or of both edges of an angle.
    """

    def __init__(self, over: Over, name: str, *, before_envelope: bool = False) -> None:
        super().__init__()
        self.over: Over = over
        self.name = name
        self.before_envelope = before_envelope

    def forward(self, weights: Tensor) -> Tensor:
        """Returns ``weights``."""
        return weights


@contextmanager
def tapped(module: nn.Module) -> Iterator[list[tuple[Tap, Tensor]]]:
    """Collects what flows through the taps of ``module``, in order of computation."""
    seen: list[tuple[Tap, Tensor]] = []

    def keep(tap: Any, given: Any, weights: Tensor) -> None:
        seen.append((tap, weights.detach()))

    taps = [part for part in module.modules() if isinstance(part, Tap)]
    handles = [tap.register_forward_hook(keep) for tap in taps]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
