"""Activation functions by name; forces need one that is twice differentiable, so not ``relu``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor
from torch.nn import functional

from epitaxy.errors import ConfigError, closest

ActivationName = Literal["softplus", "silu", "relu", "none"]
Activation = Callable[[Tensor], Tensor]

_ACTIVATIONS: dict[str, Activation] = {
    "softplus": functional.softplus,
    "silu": functional.silu,
    "relu": functional.relu,
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


def smooth_activation(name: ActivationName) -> Activation:
    """Returns the function called ``name``, which is twice differentiable.

    Raises:
        ConfigError: For an unknown name, or ``relu``: a force built on it has no slope to learn by.
    """
    if name == "relu":
        raise ConfigError("relu has no curvature, so forces could not be learnt: take silu")
    return activation(name)
