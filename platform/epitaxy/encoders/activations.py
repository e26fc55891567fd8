"""Activation functions by name; forces need one that is twice differentiable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor
from torch.nn import functional

from epitaxy.errors import ConfigError, closest

ActivationName = Literal["softplus", "silu", "relu", "leaky_relu", "none"]
KINKED = frozenset({"relu", "leaky_relu"})
"""Activations of straight pieces: a force built on one jumps, and has no slope to learn by."""

Activation = Callable[[Tensor], Tensor]

_ACTIVATIONS: dict[str, Activation] = {
    "softplus": functional.softplus,
    "silu": functional.silu,
    "relu": functional.relu,
    "leaky_relu": lambda values: functional.leaky_relu(values, 0.2),
    "none": lambda values: values,
}


def activation(name: ActivationName) -> Activation:
    """Returns the elementwise function called ``name``; ``none`` is the identity.

    ``leaky_relu`` has the slope 0.2 below 0 (GATGNN).

    Raises:
        ConfigError: For an unknown name.
    """
    if name not in _ACTIVATIONS:
        raise ConfigError(f"unknown activation {name!r}; {closest(name, _ACTIVATIONS)}")
    return _ACTIVATIONS[name]


def smooth_activation(name: ActivationName) -> Activation:
    """Returns the function called ``name``, which is twice differentiable.

    Raises:
        ConfigError: For an unknown name, or one of ``KINKED``.
    """
    if name in KINKED:
        raise ConfigError(f"{name} has no curvature, so forces could not be learnt: take silu")
    return activation(name)
