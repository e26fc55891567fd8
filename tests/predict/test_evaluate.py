"""Metrics against their definitions, computed here from single predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from epitaxy.build import build
from epitaxy.data.convert import prepare
from epitaxy.data.dataset import Dataset
from epitaxy.errors import EpitaxyError, NeedsError
from epitaxy.graph.record import CrystalRecord, Label
from epitaxy.predict.evaluate import evaluate
from epitaxy.predict.evaluation import MAX_SAVED, Evaluation, Parity, quantity_of
from epitaxy.predict.predictor import Predictor
from epitaxy.train.checkpoint import build_model, load_model, save_model

ENCODER = {"_target_": "epitaxy.encoders.cgcnn.CGCNN", "width": 4, "layers": 1}


def test_errors_of_energy_forces_and_stress(
    models: dict[str, Path], dataset: Dataset, labelled: list[CrystalRecord]
) -> None:
    found = evaluate(models["forces"], dataset, np.arange(10), split="test").quantities
    predicted = Predictor(models["forces"]).predict(labelled)
    errors = [
        (forces - record.labels["forces"].value).ravel()
        for forces, record in zip(predicted["forces"], labelled, strict=True)
        if "forces" in record.labels
    ]
    assert found["forces"].mae == pytest.approx(np.abs(np.concatenate(errors)).mean(), rel=1e-9)
    assert found["forces"].values == 3 * sum(r.num_atoms for r in labelled if "forces" in r.labels)
    assert (found["forces"].records, found["forces"].missing) == (9, 1)
    assert (found["stress"].records, found["stress"].missing) == (9, 1)  # one is a slab
    per_atom = [
        (energy - float(record.labels["energy"].value)) / record.num_atoms
        for energy, record in zip(predicted["energy"], labelled, strict=True)
    ]
    rmse = np.sqrt(np.mean(np.square(per_atom)))
    assert found["energy_per_atom"].rmse == pytest.approx(rmse, rel=1e-9)
    assert found["energy_per_atom"].unit == "eV/atom"
    assert found["energy"].records == 10


def test_element_reference_is_the_prediction_of_the_composition_alone(
    models: dict[str, Path], dataset: Dataset, labelled: list[CrystalRecord]
) -> None:
    statistics = Predictor(models["forces"]).card["statistics"]
    table, other = statistics["reference"], statistics["other_elements"]
    energies = [sum(table.get(str(z), other) for z in r.numbers.tolist()) for r in labelled]
    labels = [float(r.labels["energy"].value) for r in labelled]
    found = evaluate(models["forces"], dataset, np.arange(10)).quantities["energy"]
    assert found.mae_reference == pytest.approx(np.abs(np.subtract(energies, labels)).mean())


def test_mean_of_the_training_split_is_the_baseline_where_the_model_knows_it(
    models: dict[str, Path], dataset: Dataset, labelled: list[CrystalRecord]
) -> None:
    labels = np.array([float(r.labels["energy"].value) for r in labelled])
    found = evaluate(models["property"], dataset, np.arange(6, 10)).quantities["energy"]
    assert found.mean_of == "training split"
    assert found.mae_mean == pytest.approx(np.abs(labels[6:] - labels[:6].mean()).mean())
    assert found.mae_zero == pytest.approx(np.abs(labels[6:]).mean())


def test_quantity_by_hand() -> None:
    """Labels 1, 2, 3 and predictions 1, 2, 5: SSE = 4, SST = 2, R² = −1."""
    parity = Parity(np.array([1.0, 2, 3]), np.array([1.0, 2, 5]), np.array([0, 1, 3]))
    found = quantity_of(parity, unit="eV", num_records=5, training_mean=None, reference=None)
    assert (found.mae, found.r2) == (pytest.approx(2 / 3), pytest.approx(-1))
    assert found.rmse == pytest.approx(np.sqrt(4 / 3))
    assert (found.mae_zero, found.mae_mean) == (pytest.approx(2), pytest.approx(2 / 3))
    assert (found.records, found.missing, found.mean_of) == (3, 2, "evaluated labels")


def test_classes_by_hand() -> None:
    """Of two classes, 2 of 4 pairs are in order; of three, 2 of 3 records are right."""
    two = Parity(np.array([0.0, 0, 1, 1]), np.array([0.1, 0.7, 0.6, 0.4]), np.arange(4))
    options: dict[str, Any] = {"unit": "", "training_mean": None, "reference": None}
    found = quantity_of(two, num_records=4, classes=2, **options)
    assert (found.accuracy, found.auc) == (0.5, 0.5)
    assert found.metrics[-2:] == ("accuracy", "auc")
    target, predicted = np.eye(3), np.array([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.4, 0.3, 0.3]])
    several = Parity(target.ravel(), predicted.ravel(), np.repeat(np.arange(3), 3))
    found = quantity_of(several, num_records=3, classes=3, **options)
    assert found.accuracy == pytest.approx(2 / 3)
    assert found.auc == pytest.approx(np.mean([1.0, 1.0, 1.0]))
    assert found.records == 3
    plain = quantity_of(two, num_records=4, **options)
    assert np.isnan(plain.accuracy)
    assert "auc" not in plain.metrics


def test_scaled_errors_and_deviations(
    labelled: list[CrystalRecord], dataset: Dataset, tmp_path: Path, caplog: Any
) -> None:
    """The error in units of half the range of the training labels; no label for a deviation."""
    config = {
        "_target_": "epitaxy.objectives.regression.Regression",
        "label": "energy",
        "normalizer": "std_then_minmax",
        "loss": "robust_l2",
    }
    objective = build(config)
    statistics = objective.fit(dataset.label_table(np.arange(6)))
    model = build_model(build(ENCODER), objective)
    save_model(tmp_path / "m", model, ENCODER, config, objective, {"statistics": statistics})
    found = evaluate(tmp_path / "m", dataset, np.arange(6, 10))
    labels = [float(record.labels["energy"].value) for record in labelled[:6]]
    quantity = found.quantities["energy"]
    assert quantity.mae_scaled == pytest.approx(2 * quantity.mae / (max(labels) - min(labels)))
    assert found.metrics["energy_mae_scaled"] == quantity.mae_scaled
    assert found.units["energy_mae_scaled"] == ""
    assert found.info["not_evaluated"] == []
    assert "not evaluated" not in caplog.text
    found.save(tmp_path / "out")
    assert Evaluation.load(tmp_path / "out").quantities["energy"] == quantity


def test_labels_of_other_classes_are_refused(crystals: Any, tmp_path: Path) -> None:
    config = {"_target_": "epitaxy.objectives.classification.Classification", "label": "kind"}
    objective = build(config)
    model = build_model(build(ENCODER), objective)
    save_model(tmp_path / "m", model, ENCODER, config, objective, {"statistics": {}})
    record = crystals.fcc().replace(labels={"kind": Label(np.array(2), "")})
    prepare([record], tmp_path / "data", format="lmdb", recipe=None, progress=False)
    with pytest.raises(NeedsError, match=r"the classes 0 … 1 of 'kind' apart, .* has a label 2"):
        evaluate(tmp_path / "m", Dataset.open(tmp_path / "data"), np.arange(1))


def test_non_finite_predictions_are_counted() -> None:
    parity = Parity(np.array([1.0, 2]), np.array([1.0, np.nan]), np.array([0, 1]))
    found = quantity_of(parity, unit="eV", num_records=2, training_mean=None, reference=None)
    assert found.non_finite == 1
    assert np.isnan(found.mae)


def test_saved_and_loaded_without_pickle(
    models: dict[str, Path], dataset: Dataset, tmp_path: Path
) -> None:
    before = evaluate(models["forces"], dataset, np.array([5, 2, 7]), split="val")
    before.save(tmp_path / "out")
    after = Evaluation.load(tmp_path / "out")
    assert after.metrics == pytest.approx(before.metrics, nan_ok=True)
    assert after.units == before.units
    assert after.units["forces_mae"] == "eV/Å"
    assert after.units["energy_per_atom_r2"] == ""
    assert after.ids.tolist() == ["c0005", "c0002", "c0007"]
    assert after.info["data"]["split"] == "val"
    np.testing.assert_array_equal(after.parity["forces"].target, before.parity["forces"].target)
    atoms = dataset.num_atoms[[5, 2, 7]]
    np.testing.assert_array_equal(after.parity["forces"].record, np.repeat([0, 1, 2], 3 * atoms))


def test_the_saved_sample_is_the_same_each_time() -> None:
    many = np.arange(MAX_SAVED + 10, dtype=float)
    parity = Parity(many, -many, many.astype(int))
    sample = parity.sample(MAX_SAVED)
    assert len(np.unique(sample.target)) == MAX_SAVED
    np.testing.assert_array_equal(sample.target, -sample.predicted)
    np.testing.assert_array_equal(sample.target, parity.sample(MAX_SAVED).target)


def test_damaged_parity_data_is_refused(
    models: dict[str, Path], dataset: Dataset, tmp_path: Path
) -> None:
    evaluate(models["property"], dataset, np.arange(3)).save(tmp_path)
    (tmp_path / "parity.npz").write_bytes(b"nothing")
    with pytest.raises(EpitaxyError, match=r"parity\.npz cannot be read"):
        Evaluation.load(tmp_path)


def test_no_rows_are_refused(models: dict[str, Path], dataset: Dataset) -> None:
    with pytest.raises(NeedsError, match=r"'test'.*is empty"):
        evaluate(models["forces"], dataset, np.zeros(0, dtype=int), split="test")


def test_data_without_the_label_are_refused(
    models: dict[str, Path], crystals: Any, tmp_path: Path
) -> None:
    record = crystals.fcc().replace(labels={"gap": Label(1.0, "eV")})
    prepare([record], tmp_path / "data", format="lmdb", recipe=None, progress=False)
    with pytest.raises(NeedsError, match="has the labels gap"):
        evaluate(models["forces"], Dataset.open(tmp_path / "data"), np.arange(1))


def test_data_in_another_unit_are_refused(
    models: dict[str, Path], dataset: Dataset, tmp_path: Path
) -> None:
    model, objective, card = load_model(models["property"])
    objective.adopt({**card["statistics"], "units": {"energy": "kJ/mol"}})
    extra = {"statistics": {**card["statistics"], "units": {"energy": "kJ/mol"}}}
    save_model(tmp_path / "other", model, card["encoder"], card["objective"], objective, extra)
    with pytest.raises(NeedsError, match=r"in 'kJ/mol', but .* holds it in 'eV'"):
        evaluate(tmp_path / "other", dataset, np.arange(3))


def test_a_label_that_the_data_lack_is_derived(crystals: Any, tmp_path: Path) -> None:
    """Which space group a crystal has is told by the crystal."""
    records = [crystals.rocksalt(), crystals.perovskite()]
    prepare(records, tmp_path / "data", format="lmdb", recipe=None, progress=False)
    config = {
        "_target_": "epitaxy.objectives.regression.Regression",
        "label": "space_group",
        "normalizer": "none",
    }
    objective = build(config)
    model = build_model(build(ENCODER), objective)
    statistics = {"mean": {"space_group": 0.0}, "std": {"space_group": 1.0}}
    statistics["units"] = {"space_group": ""}
    save_model(tmp_path / "model", model, ENCODER, config, objective, {"statistics": statistics})
    found = evaluate(tmp_path / "model", Dataset.open(tmp_path / "data"), np.arange(2))
    predicted = Predictor(tmp_path / "model").predict(records)["space_group"]
    expected = np.abs(np.asarray(predicted) - [225, 221]).mean()
    assert found.quantities["space_group"].mae == pytest.approx(expected, rel=1e-6)
