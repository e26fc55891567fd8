from __future__ import annotations

import pytest
import torch

from epitaxy.errors import ConfigError
from epitaxy.heads.projector import Projector


def test_activations_stand_between_the_layers_only() -> None:
    head = Projector(3, (4, 2), "relu")
    assert set(head.state_dict()) == {
        f"{layer}.{kind}" for layer in ("hidden.0", "out") for kind in ("weight", "bias")
    }
    vector = torch.randn(5, 3)
    hidden = (vector @ head.hidden[0].weight.T + head.hidden[0].bias).clamp(min=0)
    torch.testing.assert_close(head(vector), hidden @ head.out.weight.T + head.out.bias)
    assert head(vector[:0]).shape == (0, 2)


def test_without_hidden_layers_it_is_linear() -> None:
    head = Projector(3, (2,), "relu")
    vector = torch.randn(5, 3)
    torch.testing.assert_close(head(vector), vector @ head.out.weight.T + head.out.bias)


@pytest.mark.parametrize("widths", [(), (0,), (4, -1)])
def test_impossible_widths_are_refused(widths: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="widths ≥ 1"):
        Projector(3, widths, "relu")
