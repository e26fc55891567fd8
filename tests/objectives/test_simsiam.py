"""The loss is that of the original code; what is predicted gets no gradient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from epitaxy.errors import NeedsError
from epitaxy.heads.model import Model
from epitaxy.objectives.contract import Term
from epitaxy.objectives.simsiam import SimSiam, simsiam_losses


@pytest.mark.parametrize("case", ["full", "incomplete"])
def test_the_original_code(reference_dir: Path, case: str) -> None:
    vectors = np.load(reference_dir / "losses_and_bases/vectors.npz")
    given = [torch.from_numpy(vectors[f"simsiam/{case}/{n}"]) for n in ("p1", "p2", "z1", "z2")]
    found = simsiam_losses(*(rows.double() for rows in given)).mean()
    assert float(found) == pytest.approx(float(vectors[f"simsiam/{case}/loss"]), abs=1e-7)


def test_angles_by_hand() -> None:
    """60° one way and 90° the other: −(½ + 0) / 2."""
    first = torch.tensor([[2.0, 0.0]])
    second = torch.tensor([[0.0, 5.0]])
    ahead = torch.tensor([[3**0.5, 1.0]])  # 60° from the second view's vector
    back = torch.tensor([[0.0, -1.0]])  # 90° from the first's
    assert float(simsiam_losses(ahead, back, first, second)) == pytest.approx(-0.25)
    assert float(simsiam_losses(second, first, first, second)) == pytest.approx(-1.0)


def test_only_predictions_have_a_slope() -> None:
    given = [torch.randn(3, 4, dtype=torch.float64).requires_grad_() for _ in range(4)]
    simsiam_losses(*given).sum().backward()
    assert [rows.grad is not None for rows in given] == [True, True, False, False]
    assert torch.autograd.gradcheck(
        lambda p1, p2: simsiam_losses(p1, p2, *given[2:]), tuple(given[:2])
    )


def test_the_term_is_a_sum_over_crystals(encoder: Any, batch_of: Any, crystals: Any) -> None:
    objective = SimSiam([3])
    model = Model(encoder, objective.heads(encoder)).double()
    records = crystals.many(5)
    views = batch_of(records, []), batch_of(records[::-1], [])
    term = objective.terms(model, views)["simsiam"]
    assert isinstance(term, Term)
    assert (term.count, objective.counts(views)) == (5, {"simsiam": 5})
    vectors = [
        np.stack([rows.mean(0) for rows in np.split(node, batch.num_atoms.cumsum(0).numpy()[:-1])])
        for batch in views
        for node in [encoder(batch).node.detach().numpy()]
    ]
    head = model.head["predictor"]
    total = 0.0
    for one, other in (vectors, vectors[::-1]):
        predicted = head(torch.from_numpy(one)).detach().numpy()
        lengths = np.linalg.norm(predicted, axis=1) * np.linalg.norm(other, axis=1)
        total -= ((predicted * other).sum(1) / lengths).sum() / 2
    assert float(term.total.detach()) == pytest.approx(total, rel=1e-9)


def test_it_predicts_no_label(encoder: Any, batch_of: Any, crystals: Any) -> None:
    objective = SimSiam()
    with pytest.raises(NeedsError, match=r"SimSiam trains an encoder and predicts no label"):
        objective.predict(Model(encoder, objective.heads(encoder)), batch_of(crystals.many(1), []))
