"""An encoder that several objectives share for the length of one computation."""

from __future__ import annotations

from typing import Any

import torch

from epitaxy.encoders.contract import Encoder, Encoding
from epitaxy.graph.batch import CrystalBatch


class EncodeOnce:
    """Reads one batch once, however many ask; other batches, such as strained copies, each time.

    The encoding is kept for as long as this object, so it must live no longer than the computation
    that needs it. Everything but the call is the encoder's own.

    Args:
        encoder: Reads batches.
        batch: Whose encoding is kept.
    """

    def __init__(self, encoder: Encoder, batch: CrystalBatch) -> None:
        self._encoder, self._batch = encoder, batch
        self._kept: dict[bool, Encoding] = {}
        for name in Encoder.__annotations__:  # so that it counts as an encoder itself
            setattr(self, name, getattr(encoder, name))

    def __call__(self, batch: CrystalBatch) -> Encoding:
        """Returns the states of ``batch``."""
        if batch is not self._batch:
            return self._encoder(batch)
        with_gradients = torch.is_grad_enabled()
        if with_gradients not in self._kept:
            self._kept[with_gradients] = self._encoder(batch)
        return self._kept[with_gradients]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # not there yet, or asked for by copy and pickle
            raise AttributeError(name)
        return getattr(self._encoder, name)
