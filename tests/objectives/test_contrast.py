from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from epitaxy.objectives.contrast import Denominator, nt_xent


def by_loops(z: np.ndarray, classes: list[int], temperature: float, all_others: bool) -> float:
    """The formula, pair by pair."""
    losses = []
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    for i, own in enumerate(classes):
        for j, other in enumerate(classes):
            if i == j or own != other:
                continue
            against = [
                k
                for k, one in enumerate(classes)
                if k == j or one != own or (all_others and k != i)
            ]
            terms = {k: math.exp(float(unit[i] @ unit[k]) / temperature) for k in against}
            losses.append(-math.log(terms[j] / sum(terms.values())))
    return float(np.mean(losses))


@pytest.mark.parametrize("denominator", ["negatives", "all_others"])
@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_it_is_the_formula(denominator: Denominator, temperature: float) -> None:
    z = np.random.default_rng(0).normal(size=(9, 4))
    classes = [0, 1, 0, 2, 6, 1, 1, 0, 3]  # classes with one member have no pair, but are rivals
    found = nt_xent(
        torch.from_numpy(z),
        torch.tensor(classes),
        temperature=temperature,
        denominator=denominator,
    )
    expected = by_loops(z, classes, temperature, denominator == "all_others")
    assert float(found) == pytest.approx(expected, rel=1e-12)


def test_two_against_one_by_hand() -> None:
    """s₁₂ = 1, s₁₃ = 0, s₂₃ = 0: both pairs cost log(1 + e^(−1/τ))."""
    z = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    found = nt_xent(z, torch.tensor([4, 4, 1]), temperature=0.5)
    assert float(found) == pytest.approx(math.log1p(math.exp(-2.0)))


@pytest.mark.parametrize("case", ["a", "b", "single_class", "no_positive"])
def test_it_gives_what_the_library_of_the_authors_gives(case: str, reference_dir: Path) -> None:
    vectors = np.load(reference_dir / "losses_and_bases/vectors.npz")
    found = nt_xent(
        torch.from_numpy(vectors[f"ntxent/{case}/z"]).double(),
        torch.from_numpy(vectors[f"ntxent/{case}/labels"]),
        temperature=0.07,
    )
    assert float(found) == pytest.approx(float(vectors[f"ntxent/{case}/loss"]), rel=1e-6)


@pytest.mark.parametrize("denominator", ["negatives", "all_others"])
@pytest.mark.parametrize("classes", [[], [2], [2, 2, 2], [0, 1, 2]])
def test_nothing_to_compare_costs_nothing(denominator: Denominator, classes: list[int]) -> None:
    z = torch.randn(len(classes), 4, requires_grad=True)
    labels = torch.tensor(classes, dtype=torch.int64)
    loss = nt_xent(z, labels, temperature=0.07, denominator=denominator)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert z.grad is not None
    assert not z.grad.any()


@pytest.mark.parametrize("denominator", ["negatives", "all_others"])
def test_its_slope_is_that_of_finite_differences(denominator: Denominator) -> None:
    z = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    classes = torch.tensor([0, 0, 1, 1, 1, 2])
    assert torch.autograd.gradcheck(
        lambda rows: nt_xent(rows, classes, temperature=0.2, denominator=denominator),
        z.requires_grad_(),
    )


def test_opposite_crystals_of_one_class_stay_finite() -> None:
    z = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]], requires_grad=True)
    loss = nt_xent(z, torch.tensor([0, 0, 1]), temperature=0.01)
    loss.backward()
    # s₁₂ = −1 and s₁₃ = 1 cost 2/τ, s₂₁ = s₂₃ costs log 2.
    assert float(loss.detach()) == pytest.approx((200.0 + math.log(2.0)) / 2, rel=1e-6)
    assert bool(torch.isfinite(z.grad).all())
