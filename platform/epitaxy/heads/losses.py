"""Losses that objectives sum under their masks."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from epitaxy.errors import ConfigError, closest

LossName = Literal["l1", "mse", "huber", "smooth_l1"]
RobustName = Literal["robust_l1", "robust_l2", "nll"]
VectorLossName = Literal["l1", "mse", "huber", "smooth_l1", "l2norm"]

ELEMENTWISE: tuple[LossName, ...] = ("l1", "mse", "huber", "smooth_l1")
ROBUST: tuple[RobustName, ...] = ("robust_l1", "robust_l2", "nll")
"""Of networks that also predict the logarithm of the standard deviation of their error."""
VECTOR: tuple[VectorLossName, ...] = (*ELEMENTWISE, "l2norm")


def check_loss(name: str, delta: float, known: Collection[str] = ELEMENTWISE) -> None:
    """Refuses unknown losses and a transition point that is not positive.

    Raises:
        ConfigError: With the closest known name, or the value that was found.
    """
    if name not in known:
        raise ConfigError(f"unknown loss {name!r}; {closest(name, known)}")
    if not delta > 0:
        raise ConfigError(f"the loss's delta must be positive, got {delta}")


def elementwise_loss(
    name: LossName, error: Float[Tensor, "*shape"], delta: float = 1.0
) -> Float[Tensor, "*shape"]:
    """Returns the loss of each entry of ``error``.

    ``l1`` is ``|e|``, ``mse`` is ``e²``; ``huber`` is ``½e²`` up to ``|e| = delta`` and
    ``delta (|e| − ½ delta)`` beyond; ``smooth_l1`` is ``huber / delta``, which tends to ``l1``
    for small ``delta``. ``delta`` has the unit of ``error``.
    """
    if name == "l1":
        return error.abs()
    if name == "mse":
        return error.square()
    zero = error.new_zeros(()).expand_as(error)
    if name == "huber":
        return functional.huber_loss(error, zero, reduction="none", delta=delta)
    return functional.smooth_l1_loss(error, zero, reduction="none", beta=delta)


def vector_loss(
    name: VectorLossName, error: Float[Tensor, "rows *components"], delta: float = 1.0
) -> Float[Tensor, " rows"]:
    """Returns the loss of each row, summed over the ``entries`` that it counts as.

    ``l2norm`` is the length of the error, ``‖e‖₂`` (of a matrix the Frobenius norm): it turns
    with the crystal, and a row that is exact has no slope. Other losses add up the components'.
    """
    components = error.reshape(len(error), math.prod(error.shape[1:]))
    if name == "l2norm":
        return torch.linalg.vector_norm(components, dim=1)
    return elementwise_loss(name, components, delta).sum(dim=1)


def entries(name: VectorLossName, components: int) -> int:
    """Returns how many numbers a row of ``components`` numbers counts as in a mean loss."""
    return 1 if name == "l2norm" else components


def robust_loss(
    name: RobustName, error: Float[Tensor, "*shape"], log_std: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """Returns the loss of errors whose standard deviation ``exp(s)`` is predicted as well.

    ``robust_l1`` is ``√2 |e| exp(−s) + s`` (Laplace's distribution), ``robust_l2`` is
    ``½ e² exp(−2s) + s`` (a normal one), both from Roost (Goodall & Lee 2020); ``nll`` adds
    ``½ ln 2π`` to the latter, which makes it the negative logarithm of the likelihood. All fall
    without limit where errors vanish.
    """
    if name == "robust_l1":
        return math.sqrt(2.0) * error.abs() * torch.exp(-log_std) + log_std
    loss = 0.5 * error.square() * torch.exp(-2.0 * log_std) + log_std
    return loss + 0.5 * math.log(2.0 * math.pi) if name == "nll" else loss


def where_present(
    values: Float[Tensor, "rows *components"], mask: Bool[Tensor, " rows"], other: float = 0.0
) -> Float[Tensor, "rows *components"]:
    """Returns ``values`` with ``other`` in the rows that ``mask`` leaves out, whatever is there.

    Labels pass through it before any arithmetic: a NaN that is masked only afterwards comes back
    in the gradient, as 0 · NaN.
    """
    return torch.where(mask.reshape(len(mask), *[1] * (values.dim() - 1)), values, other)
