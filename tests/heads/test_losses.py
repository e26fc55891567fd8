from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from epitaxy.errors import ConfigError
from epitaxy.heads.losses import (
    check_loss,
    elementwise_loss,
    entries,
    robust_loss,
    vector_loss,
    where_present,
)


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


def test_losses_of_rows_by_hand() -> None:
    error = torch.tensor([[3.0, -4.0, 0.0], [0.0, 0.0, 0.0]], requires_grad=True)
    assert vector_loss("l1", error).tolist() == [7.0, 0.0]
    assert vector_loss("mse", error).tolist() == [25.0, 0.0]
    assert (entries("l1", 3), entries("l2norm", 3)) == (3, 1)
    lengths = vector_loss("l2norm", error)
    assert lengths.tolist() == [5.0, 0.0]
    lengths.sum().backward()
    assert error.grad.tolist() == [pytest.approx([0.6, -0.8, 0.0]), [0.0, 0.0, 0.0]]


def test_the_norm_of_a_matrix_is_frobenius_and_that_of_a_number_its_size() -> None:
    matrices = torch.tensor([[[1.0, 2.0], [2.0, 0.0]]])
    assert vector_loss("l2norm", matrices).tolist() == [3.0]
    assert vector_loss("l2norm", torch.tensor([-2.0, 0.5])).tolist() == [2.0, 0.5]
    for shape in ((0,), (0, 3), (0, 3, 3)):
        assert vector_loss("l2norm", torch.zeros(shape)).shape == (0,)
        assert vector_loss("huber", torch.zeros(shape)).shape == (0,)


def test_robust_losses_are_those_of_roost(reference_dir: Path) -> None:
    stored = np.load(reference_dir / "losses_and_bases/vectors.npz")
    mean, log_std, target = (
        torch.from_numpy(stored[f"robust/{name}"]) for name in ("mean", "log_std", "target")
    )
    for name, key in (("robust_l1", "l1"), ("robust_l2", "l2")):
        found = robust_loss(name, mean - target, log_std).mean()
        assert float(found) == pytest.approx(float(stored[f"robust/{key}"]), rel=1e-6)


def test_the_likelihood_is_that_of_a_normal_distribution() -> None:
    error, std = torch.tensor([0.3, -2.0]).double(), torch.tensor([0.5, 1.5]).double()
    expected = -torch.distributions.Normal(0.0, std).log_prob(error)
    torch.testing.assert_close(robust_loss("nll", error, std.log()), expected)
    laplace = torch.distributions.Laplace(0.0, std / math.sqrt(2.0)).log_prob(error)
    found = robust_loss("robust_l1", error, std.log()) + 0.5 * math.log(2.0)
    torch.testing.assert_close(found, -laplace)  # of the same standard deviation


def test_nothing_behind_a_mask_is_seen() -> None:
    values = torch.tensor([[1.0, 2.0], [torch.nan, torch.inf]])
    assert where_present(values, torch.tensor([True, False])).tolist() == [[1.0, 2.0], [0.0, 0.0]]
    assert where_present(values[:, 0], torch.tensor([False, True]), 7.0)[0] == 7.0
