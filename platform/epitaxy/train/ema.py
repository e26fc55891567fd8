"""Moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Ema:
    """Keeps ``average ← d · average + (1 − d) · weights``.

    Update ``n`` has ``d = min(decay, (1 + n) / (10 + n))``, which keeps the random start out of
    short runs. Only trainable weights are averaged; everything else is read from the model.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self._weights = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.average = {name: p.detach().clone() for name, p in self._weights.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Takes the current weights into the average."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        for name, weight in self._weights.items():
            self.average[name].lerp_(weight, 1.0 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Lets the model hold the averaged weights for the time of a ``with`` block."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def load(self, average: Mapping[str, Tensor], updates: int) -> None:
        """Takes over a stored average."""
        for name, tensor in self.average.items():
            tensor.copy_(average[name])
        self.updates = updates

    @torch.no_grad()
    def _swap(self) -> None:
        for name, weight in self._weights.items():
            held = weight.clone()
            weight.copy_(self.average[name])
            self.average[name].copy_(held)
