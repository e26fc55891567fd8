"""Elementwise losses that objectives sum under their masks."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from epitaxy.errors import ConfigError, closest

LossName = Literal["l1", "mse", "huber", "smooth_l1"]
_NAMES = ("l1", "mse", "huber", "smooth_l1")


def check_loss(name: str, delta: float) -> None:
    """Refuses unknown losses and a transition point that is not positive.

    Raises:
        ConfigError: With the closest known name, or the value that was found.
    """
    if name not in _NAMES:
        raise ConfigError(f"unknown loss {name!r}; {closest(name, _NAMES)}")
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
