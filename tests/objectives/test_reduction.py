"""Two labels, of which the first record has both, the second one and the third none."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from epitaxy.errors import ConfigError
from epitaxy.objectives.reduction import Reduction

LABELS = ("gap", "modulus")
WEIGHTS = {"gap": 2.0, "modulus": 0.5}
LOSSES = {"gap": [1.0, 2.0, torch.nan], "modulus": [4.0, torch.nan, 1e30]}
MASKS = {"gap": [True, True, False], "modulus": [True, False, False]}


def rows(index: slice) -> tuple[dict[str, torch.Tensor], Any]:
    """Losses, and as much of a batch as a reduction reads."""
    masks = {name: torch.tensor(mask[index], dtype=torch.bool) for name, mask in MASKS.items()}
    losses = {name: torch.tensor(loss[index]) for name, loss in LOSSES.items()}
    return losses, SimpleNamespace(masks=masks, num_graphs=len(masks["gap"]))


def loss(reduction: Reduction, *parts: slice) -> float:
    """Of a step that is taken apart so, as the step adds it up."""
    sums, counts, weights = dict.fromkeys(LABELS, 0.0), dict.fromkeys(LABELS, 0.0), {}
    for part in parts:
        losses, batch = rows(part)
        known = reduction.counts(batch)
        for name, term in reduction.terms(losses, batch).items():
            assert term.count == known[name]
            sums[name] += float(term.total)
            counts[name] += term.count
            weights[name] = term.weight
    return sum(weights[name] * sums[name] / counts[name] for name in LABELS)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("per_label", 2 * (1 + 2) / 2 + 0.5 * 4 / 1),
        ("fixed", ((2 * 1 + 0.5 * 4) / 2 + 2 * 2 / 2) / 3),
        ("available", ((2 * 1 + 0.5 * 4) / 2 + 2 * 2 / 1) / 3),
    ],
)
def test_the_loss_by_hand_however_a_step_is_spread(name: Any, expected: float) -> None:
    reduction = Reduction(name, LABELS, WEIGHTS)
    assert loss(reduction, slice(0, 3)) == pytest.approx(expected)
    assert loss(reduction, slice(0, 1), slice(1, 1), slice(1, 3)) == pytest.approx(expected)


def test_impossible_reductions_are_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'available'"):
        Reduction("availble", LABELS, WEIGHTS)
