"""Columns to fit statistics on: stored vectors are read, missing labels derived."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from epitaxy.data import fit_table as module
from epitaxy.data.convert import prepare
from epitaxy.data.dataset import Dataset
from epitaxy.data.fit_table import fit_table
from epitaxy.data.magpie import MAGPIE, magpie_vector
from epitaxy.data.mixture import Mixture
from epitaxy.data.symmetry import CRYSTAL_SYSTEM, SPACE_GROUP
from epitaxy.errors import NeedsError
from epitaxy.graph.record import CrystalRecord, Label

pytest.importorskip("matminer", reason="matminer is in the dev extra")

SPECTRUM = np.array([1.0, 2.0, 4.0])


@pytest.fixture(scope="module")
def records(crystals: Any) -> list[CrystalRecord]:
    """Salt with a spectrum, copper without, a perovskite with twice that of salt, and helium."""
    salt, oxide = crystals.rocksalt(), crystals.perovskite()
    label = {name: Label(SPECTRUM * factor, "eV") for name, factor in (("one", 1), ("two", 2))}
    return [
        salt.replace(labels={"spectrum": label["one"]}),
        crystals.labelled(crystals.fcc()),
        oxide.replace(labels={"spectrum": label["two"]}),
        crystals.fcc(2).replace(id="helium"),
    ]


@pytest.fixture(scope="module")
def data(records: list[CrystalRecord], tmp_path_factory: Any) -> Dataset:
    folder = tmp_path_factory.mktemp("fit") / "data"
    prepare(records, folder, checks="off", progress=False)
    return Dataset.open(folder)


def test_without_wishes_it_is_the_table_of_the_data_set(data: Dataset) -> None:
    rows = np.array([2, 1])
    table, plain = fit_table(data, rows, labels=("energy", "spectrum")), data.label_table(rows)
    assert table.tensors == {}
    assert table.scalars.keys() == plain.scalars.keys() == {"energy"}
    assert np.array_equal(table.scalar("energy"), plain.scalar("energy"), equal_nan=True)
    with pytest.raises(NeedsError, match="no values of a label 'spectrum' to fit on"):
        table.tensor("spectrum")


def test_stored_vectors_come_in_the_order_of_the_rows(data: Dataset) -> None:
    table = fit_table(data, np.array([2, 3, 0, 1]), fits_on=("spectrum", "energy", "stress"))
    expected = np.array([SPECTRUM * 2, [np.nan] * 3, SPECTRUM, [np.nan] * 3])
    assert np.array_equal(table.tensor("spectrum"), expected, equal_nan=True)
    assert table.tensors.keys() == {"spectrum", "stress"}  # energy is a scalar
    assert table.tensor("stress").shape == (4, 3, 3)
    assert table.units["spectrum"] == "eV"


def test_missing_labels_are_derived_for_those_who_ask(
    data: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        table = fit_table(
            data, np.arange(4), labels=(SPACE_GROUP, CRYSTAL_SYSTEM, MAGPIE), fits_on=(MAGPIE,)
        )
    assert table.scalar(SPACE_GROUP).tolist() == [225, 225, 221, 225]
    assert table.present(CRYSTAL_SYSTEM).all()
    assert np.array_equal(table.tensor(MAGPIE)[0], magpie_vector({11: 1, 17: 1}))
    assert np.isnan(table.tensor(MAGPIE)[3]).all()
    assert table.units[MAGPIE] == table.units[SPACE_GROUP] == ""
    assert "1 of 4 that were tried cannot have it" in caplog.text


def test_vectors_are_not_derived_for_those_who_only_train_on_them(data: Dataset) -> None:
    assert fit_table(data, np.arange(4), labels=(MAGPIE,)).tensors == {}


def test_an_even_sample_is_derived(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIT_RECORDS", {SPACE_GROUP: 2})
    table = fit_table(data, np.array([0, 2, 1]), labels=(SPACE_GROUP,))
    assert np.array_equal(table.scalar(SPACE_GROUP), [225, np.nan, 225], equal_nan=True)


def test_a_stored_label_is_not_derived_anew(records: list[CrystalRecord], tmp_path: Path) -> None:
    """Where the import found no label there is none."""
    prepare(records[:3], tmp_path / "a", symmetry=True, checks="off", progress=False)
    told = records[3].replace(labels={"gap": Label(np.array(1.0), "eV")})
    prepare([told], tmp_path / "b", checks="off", progress=False)
    mixed = Mixture([Dataset.open(tmp_path / "a"), Dataset.open(tmp_path / "b")])
    table = fit_table(mixed, np.array([3, 0]), labels=(SPACE_GROUP,), fits_on=("spectrum",))
    assert np.array_equal(table.scalar(SPACE_GROUP), [np.nan, 225], equal_nan=True)
    assert np.array_equal(table.tensor("spectrum")[1], SPECTRUM)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("spectrm", "cannot be had .*did you mean 'spectrum'"),
        ("forces", "has a value for every atom"),
    ],
)
def test_what_cannot_be_fitted_on_is_refused(data: Dataset, name: str, told: str) -> None:
    with pytest.raises(NeedsError, match=f"fits on the label '{name}', which {told}"):
        fit_table(data, np.arange(4), fits_on=(name,))
