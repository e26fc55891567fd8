"""Activation functions by name; all are twice differentiable, which forces need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor
from torch.nn import functional

from epitaxy.errors import ConfigError, closest

ActivationName = Literal["softplus", "silu", "none"]
Activation = Callable[[Tensor], Tensor]

_ACTIVATIONS: dict[str, Activation] = {
    "softplus": functional.softplus,
    "silu": functional.silu,
    "none": lambda values: values,
}


def activation(name: ActivationName) -> Activation:
    """Returns the elementwise function called ``name``; ``none`` is the identity.

    Raises:
        ConfigError: For an unknown name.
    """
    if name not in _ACTIVATIONS:
        raise ConfigError(f"unknown activation {name!r}; {closest(name, _ACTIVATIONS)}")
    return _ACTIVATIONS[name]
