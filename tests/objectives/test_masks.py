"""Whatever stands where a label is missing, the loss and its gradient are the same to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from epitaxy.graph.record import CrystalRecord, Label
from epitaxy.heads.losses import ELEMENTWISE, ROBUST, VECTOR
from epitaxy.heads.model import Model
from epitaxy.objectives.classification import Classification
from epitaxy.objectives.energy_force_stress import EnergyForceStress
from epitaxy.objectives.normalizers import NORMALIZERS
from epitaxy.objectives.regression import Regression

NAMES = ("energy", "forces", "stress", "gap", "modulus", "kind")
PAIR = ["gap", "modulus"]
OBJECTIVES = {
    **{f"regression-{loss}": Regression(PAIR, loss=loss) for loss in (*ELEMENTWISE, *ROBUST)},
    **{f"regression-{name}": Regression(PAIR, normalizer=name) for name in NORMALIZERS},
    "regression-fixed": Regression(PAIR, reduction="fixed", shared=True),
    "regression-available": Regression(PAIR, reduction="available"),
    "regression-extensive": Regression(PAIR, extensive=True),
    "classification": Classification("kind", classes=3),
    "classification-weighted": Classification("kind", classes=3, class_weights=[1.0, 2.0, 0.5]),
    **{
        f"forces-{loss}": EnergyForceStress(energy_loss=loss, force_loss=loss, stress_loss=loss)
        for loss in VECTOR
    },
    "forces-per-structure": EnergyForceStress(force_reduction="per_structure_mean"),
}
GARBAGE = (torch.nan, torch.inf, -torch.inf, 1e30, -1e30)


@pytest.fixture
def records(crystals: Any) -> list[CrystalRecord]:
    """Crystals of which the first has every label, and the others lack two of six each."""
    made = []
    for index in range(4):
        record = crystals.labelled(crystals.triclinic(index, index + 1), index)
        labels = {
            **record.labels,
            "gap": Label(1.0 + index, "eV"),
            "modulus": Label(10.0 * (index + 1), "GPa"),
            "kind": Label(np.array(index % 3), ""),
        }
        lacking = [name for place, name in enumerate(NAMES) if index and (place + index) % 3 == 0]
        kept = {name: label for name, label in labels.items() if name not in lacking}
        made.append(record.replace(labels=kept))
    return made


def evaluated(objective: Any, model: Model, batch: Any) -> list[torch.Tensor]:
    """Sums of the terms, then the gradient of the loss with respect to every parameter."""
    model.zero_grad()
    terms = objective.terms(model, (batch,))
    sum(term.weight * term.total / term.count for term in terms.values()).backward()
    totals = [term.total.detach() for term in terms.values()]
    return [*totals, *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_what_is_behind_a_mask_changes_nothing(
    encoder: Any, records: Any, batch_of: Any, table_of: Any, name: str
) -> None:
    objective = OBJECTIVES[name]
    objective.fit(table_of(records, NAMES))
    torch.manual_seed(1)
    model = Model(encoder, objective.heads(encoder)).double()
    batch = batch_of(records, NAMES)
    expected = evaluated(objective, model, batch)
    assert all(bool(tensor.isfinite().all()) for tensor in expected)
    assert any(bool(tensor.any()) for tensor in expected[1:])
    missing = 0
    for garbage in GARBAGE:
        labels = {label: values.clone() for label, values in batch.labels.items()}
        for label, values in labels.items():
            values[~batch.masks[label]] = garbage
        missing += sum(int((~batch.masks[label]).sum()) for label in objective.labels)
        found = evaluated(objective, model, batch.replace(labels=labels))
        assert all(map(torch.equal, found, expected)), garbage
        assert objective.counts((batch.replace(labels=labels),)) == objective.counts((batch,))
    assert missing
