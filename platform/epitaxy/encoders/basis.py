"""Functions of distance: the features of an edge, and envelopes that switch it off."""

from __future__ import annotations

import math
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


class ExpNormalBasis(nn.Module):
    """``c(d) exp(−β_k (exp(−α d) − μ_k)²)`` with ``α = 5 / R``: (edges,) in Å → (edges, size).

    At first the ``μ_k`` are evenly spaced on [exp(−R), 1] and ``β_k = (2 (1 − exp(−R)) / K)⁻²``, so
    that functions are narrow close to the atom; both are learnt (Unke & Meuwly 2019, as used by
    TorchMD-Net).

    Args:
        size: ``K``, number of functions.
        cutoff: ``R`` in Å.
        envelope: ``c``.
    """

    def __init__(self, size: int, cutoff: float, envelope: EnvelopeName = "cosine") -> None:
        super().__init__()
        if size < 2 or not cutoff > 0:
            raise ConfigError(f"a basis needs size ≥ 2 and cutoff > 0, got {size} and {cutoff}")
        check_envelope(envelope)
        self.size = size
        self.cutoff = cutoff
        self.envelope: EnvelopeName = envelope
        start = math.exp(-cutoff)
        self.means = nn.Parameter(torch.linspace(start, 1.0, size))
        self.betas = nn.Parameter(torch.full((size,), (2.0 / size * (1.0 - start)) ** -2))

    def forward(self, distances: Distances) -> Float[Tensor, "edges size"]:
        """Returns the features of each distance (Å)."""
        decayed = torch.exp(-5.0 / self.cutoff * distances).unsqueeze(-1)
        weight = cutoff_envelope(self.envelope, distances, self.cutoff).unsqueeze(-1)
        return weight * torch.exp(-self.betas * (decayed - self.means).square())


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
