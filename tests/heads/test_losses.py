from __future__ import annotations

import pytest
import torch

from epitaxy.errors import ConfigError
from epitaxy.heads.losses import check_loss, elementwise_loss


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("l1", [0.5, 3.0]),
        ("mse", [0.25, 9.0]),
        ("huber", [0.125, 2 * (3 - 1)]),  # ½e² inside, δ(|e| − ½δ) beyond δ = 2
        ("smooth_l1", [0.0625, 2.0]),  # huber / δ
    ],
)
def test_values_by_hand(name: str, expected: list[float]) -> None:
    losses = elementwise_loss(name, torch.tensor([0.5, -3.0]), 2.0)
    assert losses.tolist() == pytest.approx(expected)


def test_beyond_delta_the_pull_of_huber_no_longer_grows() -> None:
    error = torch.tensor([0.05, 1.0, 200.0], requires_grad=True)
    elementwise_loss("huber", error, 0.1).sum().backward()
    assert error.grad.tolist() == pytest.approx([0.05, 0.1, 0.1])


def test_unknown_losses_and_impossible_deltas_are_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'huber'"):
        check_loss("hubert", 1.0)
    with pytest.raises(ConfigError, match="must be positive, got 0"):
        check_loss("huber", 0.0)
