"""Metrics worked out by hand, with missing labels and uneven batches."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from epitaxy.graph.batch import CrystalBatch
from epitaxy.graph.collate import collate
from epitaxy.graph.record import Label, LabelField
from epitaxy.graph.spec import GraphSpec
from epitaxy.train.metrics import (
    Sums,
    certain,
    metric_units,
    prediction_metrics,
    prediction_sums,
    weighted_loss,
)


def batch() -> CrystalBatch:
    """Two crystals of 1 and 3 atoms; the second has no gap, one crystal no forces."""
    return CrystalBatch(
        ids=("a", "b"),
        numbers=torch.tensor([1, 1, 1, 1]),
        positions=torch.zeros(4, 3),
        cell=torch.eye(3).repeat(2, 1, 1),
        graph_index=torch.tensor([0, 1, 1, 1]),
        num_atoms=torch.tensor([1, 3]),
        labels={
            "energy": torch.tensor([1.0, 6.0]),
            "gap": torch.tensor([2.0, 0.0]),
            "forces": torch.zeros(4, 3),
        },
        masks={
            "energy": torch.tensor([True, True]),
            "gap": torch.tensor([True, False]),
            "forces": torch.tensor([False, True, True, True]),
        },
        graphs={},
    )


PREDICTED = {
    "energy": torch.tensor([2.0, 3.0]),  # errors 1 and -3; per atom 1 and -1
    "gap": torch.tensor([2.5, 99.0]),  # the second has no label
    "forces": torch.full((4, 3), 2.0),
    "extra": torch.zeros(2),  # no such label: ignored
}


def test_errors_by_hand() -> None:
    metrics = prediction_metrics(prediction_sums(batch(), PREDICTED), "val")
    assert metrics == pytest.approx(
        {
            "val/energy_mae": 2.0,
            "val/energy_rmse": 5**0.5,
            "val/energy_per_atom_mae": 1.0,
            "val/energy_per_atom_rmse": 1.0,
            "val/gap_mae": 0.5,
            "val/gap_rmse": 0.5,
            "val/forces_mae": 2.0,
            "val/forces_rmse": 2.0,
        }
    )


def test_components_are_counted_one_by_one() -> None:
    assert prediction_sums(batch(), PREDICTED).pairs["forces:absolute"] == (18.0, 9.0)


def test_uneven_batches_are_not_averaged_as_equals() -> None:
    sums = Sums({"x": (10.0, 1.0)})
    sums.add(Sums({"x": (0.0, 9.0), "y": (0.0, 0.0)}))
    assert sums.means() == {"x": 1.0}  # not (10 + 0) / 2; y has no samples and no mean


def test_loss_weighs_term_means() -> None:
    terms = Sums({"energy": (6.0, 3.0), "forces": (1.0, 4.0), "stress": (0.0, 0.0)})
    assert weighted_loss(terms, {"energy": 1.0, "forces": 10.0, "stress": 5.0}) == 4.5


def test_units_of_metrics() -> None:
    units = metric_units({"energy": "eV", "forces": "eV/Å"})
    assert units["val/energy_per_atom_rmse"] == "eV/atom"
    assert units["val/forces_mae"] == "eV/Å"
    assert set(units) == {
        f"val/{label}_{kind}"
        for label in ("energy", "energy_per_atom", "forces")
        for kind in ("mae", "rmse")
    }


def test_classes_are_counted_and_their_probabilities_measured() -> None:
    """Records of the classes 1 and 0."""
    given = batch().replace(
        labels={"kind": torch.tensor([1.0, 0.0])}, masks={"kind": torch.tensor([True, True])}
    )
    two = prediction_sums(given, {"kind": torch.tensor([0.6, 0.8])}, {"kind": 2})
    assert prediction_metrics(two, "val") == pytest.approx(
        {"val/kind_accuracy": 0.5, "val/kind_mae": 0.6, "val/kind_rmse": 0.4**0.5}
    )
    several = torch.tensor([[0.2, 0.7, 0.1], [0.5, 0.25, 0.25]])
    three = prediction_sums(given, {"kind": several}, {"kind": 3})
    assert prediction_metrics(three, "val")["val/kind_accuracy"] == 1.0
    assert three.pairs["kind:absolute"] == pytest.approx((0.2 + 0.3 + 0.1 + 0.5 + 0.5, 6.0))
    half = given.replace(masks={"kind": torch.tensor([True, False])})
    assert prediction_sums(half, {"kind": several}, {"kind": 3}).pairs["kind:correct"] == (1.0, 1.0)


def test_certain_probabilities() -> None:
    labels = torch.tensor([0.0, 2.0])
    assert torch.equal(certain(labels, 2), labels)
    assert certain(labels, 3).tolist() == [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]


def test_units_of_classes() -> None:
    units = metric_units({"kind": ""}, classes={"kind": 2})
    assert units == {f"val/kind_{kind}": "" for kind in ("mae", "rmse", "accuracy", "auc")}


def test_an_energy_per_atom_of_a_structure_read_as_its_composition(crystals: Any) -> None:
    """Rock salt has eight atoms, of two elements."""
    record = crystals.rocksalt().replace(labels={"energy": Label(-24.0, "eV")})
    salt = collate([record], [GraphSpec("composition")], [LabelField("energy", "eV")])
    sums = prediction_sums(salt, {"energy": torch.tensor([-20.0])})
    assert prediction_metrics(sums, "val")["val/energy_per_atom_mae"] == pytest.approx(0.5)
