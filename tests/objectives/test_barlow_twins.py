"""The loss is that of the original code and of its formula; the objective adds nothing to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from epitaxy.errors import ConfigError, NeedsError
from epitaxy.heads.model import Model
from epitaxy.objectives.barlow_twins import BarlowTwins, barlow_twins_loss
from epitaxy.objectives.contract import Coupling

WEIGHT = 0.0051


def drawn(rows: int, features: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    made = torch.Generator().manual_seed(seed)
    first = torch.randn(rows, features, generator=made, dtype=torch.float64)
    return first, first + torch.randn(rows, features, generator=made, dtype=torch.float64)


@pytest.mark.parametrize("case", ["full", "incomplete"])
def test_the_original_code(reference_dir: Path, case: str) -> None:
    """``incomplete`` has 50 rows, which the code divides by its batch size of 64."""
    vectors = np.load(reference_dir / "losses_and_bases/vectors.npz")
    given = {name: vectors[f"barlow/{case}/{name}"] for name in ("z1", "z2", "divisor", "lambda")}
    found = barlow_twins_loss(
        torch.from_numpy(given["z1"]).double(),
        torch.from_numpy(given["z2"]).double(),
        float(given["lambda"]),
        int(given["divisor"]),
    )
    assert float(found) == pytest.approx(float(vectors[f"barlow/{case}/loss"]), rel=1e-6)


@pytest.mark.parametrize("rows", [2, 7, 40])
def test_the_formula(rows: int) -> None:
    first, second = drawn(rows, 5)
    one, other = (
        (z - z.mean(0)) / np.sqrt(z.var(0) + 1e-5) for z in (first.numpy(), second.numpy())
    )
    loss = 0.0
    for k in range(5):
        for l in range(5):  # noqa: E741
            entry = sum(one[b, k] * other[b, l] for b in range(rows)) / rows
            loss += (entry - 1) ** 2 if k == l else 0.3 * entry**2
    assert float(barlow_twins_loss(first, second, 0.3)) == pytest.approx(loss, rel=1e-12)


def test_the_gradient_is_that_of_torch_batch_norm() -> None:
    first, second = (z.requires_grad_() for z in drawn(9, 4))
    found = torch.autograd.grad(barlow_twins_loss(first, second, WEIGHT), (first, second))
    norm = torch.nn.BatchNorm1d(4, affine=False).double()
    correlation = norm(first).T @ norm(second) / 9
    off = correlation[~torch.eye(4, dtype=torch.bool)]
    loss = (correlation.diagonal() - 1).square().sum() + WEIGHT * off.square().sum()
    expected = torch.autograd.grad(loss, (first, second))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_equal_views_of_independent_features_leave_nothing_to_learn() -> None:
    first = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]).double() * 1e4
    assert float(barlow_twins_loss(first, first, 1.0)) == pytest.approx(0.0, abs=1e-12)
    assert float(barlow_twins_loss(first, -first, 1.0)) == pytest.approx(2 * 4.0)
    # Twice the same feature: two entries of 1 off the diagonal.
    twice = first[:, [0, 0]]
    assert float(barlow_twins_loss(twice, twice, 0.5)) == pytest.approx(2 * 0.5)


def test_one_crystal_and_none() -> None:
    first, second = (z.requires_grad_() for z in drawn(1, 5))
    loss = barlow_twins_loss(first, second, WEIGHT)
    assert float(loss.detach()) == 5.0
    for slope in torch.autograd.grad(loss, (first, second)):
        torch.testing.assert_close(slope, torch.zeros(1, 5).double(), rtol=0, atol=0)
    nothing = torch.zeros(0, 5, requires_grad=True)
    loss = barlow_twins_loss(nothing, nothing, WEIGHT)
    assert float(loss.detach()) == 0.0
    loss.backward()


@pytest.mark.parametrize("unit_length", [True, False])
def test_the_rows_are_projections_of_both_views(
    encoder: Any, batch_of: Any, crystals: Any, unit_length: bool
) -> None:
    objective = BarlowTwins([3], 4, activation="softplus", unit_length=unit_length)
    model = Model(encoder, objective.heads(encoder)).double()
    records = crystals.many(5)
    views = batch_of(records, []), batch_of(records[::-1], [])
    term = objective.terms(model, views)["barlow_twins"]
    assert isinstance(term, Coupling)
    assert objective.counts(views) == {"barlow_twins": 5}
    head = model.head["projector"]
    for name, batch in zip(("first", "second"), views, strict=True):
        states = encoder(batch).node.split(batch.num_atoms.tolist())
        vector = torch.stack([state.mean(0) for state in states])
        hidden = functional.softplus(head.hidden[0](vector))
        expected = hidden @ head.out.weight.T + head.out.bias
        if unit_length:
            expected = expected / expected.norm(dim=1, keepdim=True)
        torch.testing.assert_close(term.rows[name], expected)
    expected = barlow_twins_loss(term.rows["first"], term.rows["second"], WEIGHT)
    torch.testing.assert_close(term.loss(term.rows), expected, rtol=0, atol=0)


def test_it_predicts_no_label(encoder: Any, batch_of: Any, crystals: Any) -> None:
    objective = BarlowTwins()
    with pytest.raises(NeedsError, match=r"BarlowTwins trains an encoder and predicts no label"):
        objective.predict(Model(encoder, objective.heads(encoder)), batch_of(crystals.many(1), []))


def test_what_it_asks_of_data_and_encoder() -> None:
    structures = BarlowTwins()
    assert (structures.requires, structures.needs_structures) == ({"node"}, True)
    compositions = BarlowTwins(edge_mask=0.0, perturb=0.0, composition=True)
    assert (compositions.requires, compositions.needs_structures) == ({"composition"}, False)
    assert structures.labels == compositions.labels == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width ≥ 1"),
        ({"redundancy_weight": -1.0}, "redundancy_weight ≥ 0"),
        ({"perturb": -1.0}, "perturb is a distance"),
    ],
)
def test_impossible_numbers_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BarlowTwins(**options)
