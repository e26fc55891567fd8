from __future__ import annotations

import torch
from torch import nn

from epitaxy.encoders.taps import Tap, tapped


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = Tap("edges", "gate")

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.gate(values) * 2


def test_taps_change_nothing_and_are_heard_only_inside() -> None:
    model = nn.Sequential(Gated(), Gated())
    values = torch.tensor([1.0, 3.0], requires_grad=True)
    with tapped(model) as seen:
        assert model(values).tolist() == [4.0, 12.0]
    assert [(tap.over, tap.name, weights.tolist()) for tap, weights in seen] == [
        ("edges", "gate", [1.0, 3.0]),
        ("edges", "gate", [2.0, 6.0]),
    ]
    assert not seen[0][1].requires_grad
    model(values)
    assert len(seen) == 2
