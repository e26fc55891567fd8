"""Predictions come in the order and shape of the records, whatever the batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from epitaxy.errors import CheckpointError, NeedsError
from epitaxy.graph.record import CrystalRecord
from epitaxy.predict.predictor import Predictor


def test_batches_equal_singles(models: dict[str, Path], labelled: list[CrystalRecord]) -> None:
    together = Predictor(models["forces"]).predict(labelled)
    one_by_one = Predictor(models["forces"], max_atoms=1)
    alone = [one_by_one.predict([record]) for record in labelled]
    assert together["energy"].shape == (len(labelled),)
    assert together["stress"].shape == (len(labelled), 3, 3)
    for index, record in enumerate(labelled):
        assert together["forces"][index].shape == (record.num_atoms, 3)
        assert together["energy"][index] == pytest.approx(alone[index]["energy"][0], rel=1e-10)
        np.testing.assert_allclose(together["forces"][index], alone[index]["forces"][0], atol=1e-10)
        np.testing.assert_allclose(together["stress"][index], alone[index]["stress"][0], atol=1e-10)


def test_one_atom_crystals_still_give_forces_per_atom(
    models: dict[str, Path], crystals: Any
) -> None:
    predictor = Predictor(models["forces"])
    predicted = predictor.predict([crystals.fcc(29), crystals.fcc(13, 4.05)])
    assert predictor.per_atom == {"forces"}
    assert [forces.shape for forces in predicted["forces"]] == [(1, 3), (1, 3)]
    # The single atom of a primitive cell is a centre of inversion.
    np.testing.assert_allclose(np.concatenate(predicted["forces"]), 0.0, atol=1e-12)


def test_no_records_give_nothing(models: dict[str, Path]) -> None:
    assert Predictor(models["forces"]).predict([]) == {}


def test_what_is_not_predicted_is_refused(models: dict[str, Path]) -> None:
    with pytest.raises(NeedsError, match="needs a model that predicts 'gap'"):
        Predictor(models["forces"]).require("gap", "this test")


def test_a_folder_without_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        Predictor(tmp_path)
