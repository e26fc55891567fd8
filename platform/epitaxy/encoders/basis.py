"""Functions of distance: the features of an edge, and envelopes that switch it off."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from epitaxy.errors import ConfigError, closest
from epitaxy.shapes import Distances

EnvelopeName = Literal["none", "cosine", "poly6"]
_ENVELOPES = ("none", "cosine", "poly6")


class GaussianBasis(nn.Module):
    """Gaussians ``exp(−((d − μ_k) / (w Δ))²)``, with ``μ_k`` every ``Δ`` on [start, stop].

    Distances (edges,) in Å → (edges, size). Without a factor ½ in the exponent, as in CGCNN
    (Xie & Grossman 2018), whose 41 functions on [0, 8] Å have ``w`` = 1.

    Args:
        size: Number of functions.
        start: First centre in Å.
        stop: Last centre in Å.
        width: ``w``, the width in units of the spacing ``Δ``.
    """

    centers: Tensor

    def __init__(self, size: int, stop: float, *, start: float = 0.0, width: float = 1.0) -> None:
        super().__init__()
        if size < 2 or not stop > start or not width > 0:
            raise ConfigError(
                "a Gaussian basis needs size ≥ 2, stop > start and width > 0, "
                f"got size={size}, start={start}, stop={stop}, width={width}"
            )
        self.size = size
        self.width = width * (stop - start) / (size - 1)
        self.register_buffer("centers", torch.linspace(start, stop, size), persistent=False)

    def forward(self, distances: Distances) -> Float[Tensor, "edges size"]:
        """Returns the features of each distance (Å)."""
        scaled = (distances.unsqueeze(-1) - self.centers) / self.width
        return torch.exp(-scaled.square())


def cutoff_envelope(name: EnvelopeName, distances: Distances, cutoff: float) -> Distances:
    """Returns a factor that falls from 1 at zero distance to 0 at ``cutoff`` (Å) and beyond.

    ``poly6`` is ``1 − 28u⁶ + 48u⁷ − 21u⁸`` with ``u = d / cutoff`` (first and second derivative
    vanish at both ends); ``cosine`` is ``½ (cos πu + 1)`` (only the first does); ``none`` is 1.

    Raises:
        ConfigError: For another name.
    """
    check_envelope(name)
    if name == "none":
        return torch.ones_like(distances)
    u = (distances / cutoff).clamp(max=1.0)
    if name == "cosine":
        return 0.5 * (torch.cos(torch.pi * u) + 1.0)
    cubed = u * u * u
    return 1.0 - cubed * cubed * (28.0 - u * (48.0 - 21.0 * u))


def check_envelope(name: str) -> None:
    """Refuses unknown envelopes.

    Raises:
        ConfigError: With the closest known name.
    """
    if name not in _ENVELOPES:
        raise ConfigError(f"unknown envelope {name!r}; {closest(name, _ENVELOPES)}")
