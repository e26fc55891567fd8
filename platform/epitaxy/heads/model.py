"""An encoder and its heads: the one module that is trained, saved and transferred."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from epitaxy.encoders.contract import Encoder


class Model(nn.Module):
    """Holds ``encoder`` and ``head``; its state dict has keys ``encoder.*`` and ``head.<role>.*``.

    Objectives call the parts; there is deliberately no ``forward``.
    """

    encoder: Encoder

    def __init__(self, encoder: Encoder, heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.ModuleDict(dict(heads))
