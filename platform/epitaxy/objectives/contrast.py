"""Losses that draw crystals of one class together and push those of others apart."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

Denominator = Literal["negatives", "all_others"]

_LINEAR = 40.0
"""Beyond this, softplus is the identity even in double precision."""


def nt_xent(
    embeddings: Float[Tensor, "crystals features"],
    classes: Int[Tensor, " crystals"],
    *,
    temperature: float,
    denominator: Denominator = "negatives",
) -> Tensor:
    """Returns the normalised, temperature-scaled cross entropy of classes (NT-Xent), a scalar.

    With the cosines ``s`` of the embeddings, every ordered pair (i, j) of different crystals of one
    class costs ::

        ℓ_ij = −log[ exp(s_ij/τ) / Σ_k exp(s_ik/τ) ]

    and the loss is the mean over these pairs; 0 if there is none, or nothing to tell them from.

    Args:
        embeddings: Of any length.
        classes: Class of each crystal.
        temperature: ``τ``.
        denominator: What ``k`` runs over: ``negatives`` are j and the crystals of other classes
            (pytorch-metric-learning, which CrysGNN uses), ``all_others`` all but i (Chen et al.
            2020, with more than one positive).
    """
    unit = functional.normalize(embeddings, dim=-1)
    logits = unit @ unit.T / temperature
    alike = classes.unsqueeze(1) == classes
    itself = torch.eye(len(classes), dtype=torch.bool, device=classes.device)
    rivals = ~alike if denominator == "negatives" else ~itself
    # Not −∞: the logarithm of a sum over nothing has no slope.
    nothing = torch.finfo(logits.dtype).min / 2
    against = torch.where(rivals, logits, nothing).logsumexp(1, keepdim=True)
    losses = against - logits
    if denominator == "negatives":
        losses = functional.softplus(losses, threshold=_LINEAR)
    counted = alike & ~itself & ~alike.all()
    return torch.where(counted, losses, 0.0).sum() / counted.sum().clamp(min=1)
