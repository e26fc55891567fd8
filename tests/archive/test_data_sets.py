"""Data sets of every format ever released stay readable: stored files, values written by hand."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from epitaxy.data.dataset import Dataset
from epitaxy.graph.spec import GraphSpec

HERE = Path(__file__).parent


@pytest.fixture(params=["format-1-lmdb", "format-1-zarr"])
def dataset(request: pytest.FixtureRequest, tmp_path: Path) -> Dataset:
    with zipfile.ZipFile(HERE / f"{request.param}.zip") as archive:
        archive.extractall(tmp_path / request.param)
    return Dataset.open(tmp_path / request.param)


def test_it_is_intact(dataset: Dataset) -> None:
    dataset.verify()
    assert dataset.manifest.format == 1
    assert dataset.data_digest == (
        "92f79f4c0bd86e9f3665b42d519f00682749283c20483774ce4b19d76fa10de0"
    )
    assert [(shard.first, shard.count) for shard in dataset.manifest.shards] == [(0, 3), (3, 1)]


def test_records(dataset: Dataset) -> None:
    assert dataset.ids.tolist() == ["salt-0", "salt-1", "kupfer-α", "slab"]
    assert dataset.groups.tolist() == ["NaCl", "NaCl", "Cu", "slab"]
    salt, moved, copper, slab = (dataset.record(row) for row in range(4))
    assert salt.numbers.tolist() == [11, 17]
    assert salt.positions.tolist() == [[0, 0, 0], [2.82, 2.82, 2.82]]
    assert salt.cell.tolist() == [[0, 2.82, 2.82], [2.82, 0, 2.82], [2.82, 2.82, 0]]
    assert moved.positions.tolist() == [[0.125] * 3, [2.945] * 3]
    assert slab.pbc.tolist() == [True, True, False]
    assert slab.cell.tolist() == [[3, 0, 0], [0, 3, 0], [0, 0, 0]]
    assert (copper.group, copper.numbers.tolist()) == ("Cu", [29])


def test_labels(dataset: Dataset) -> None:
    labels = dataset.record(0).labels
    assert (float(labels["energy"].value), labels["energy"].unit) == (-6.75, "eV")
    assert labels["forces"].value.tolist() == [[0.5, 0, 0], [-0.5, 0, 0]]
    assert labels["forces"].per_atom
    assert np.diag(labels["stress"].value).tolist() == [0.25, 0.5, -1.0]
    assert labels["stress"].unit == "eV/Å^3"
    assert {label.scheme for label in labels.values()} == {"PBE"}
    assert dict(dataset.record(3).labels) == {}
    assert set(dataset.fields) == {"energy", "forces", "stress", "band_gap"}


def test_columns(dataset: Dataset) -> None:
    """Rocksalt, a = 5.64 Å: within 3 Å the 6 unlike neighbours of each of its 2 atoms."""
    table = dataset.label_table(np.arange(4))
    np.testing.assert_array_equal(table.scalars["energy"], [-6.75, -6.5, np.nan, np.nan])
    np.testing.assert_array_equal(table.scalars["band_gap"], [np.nan, np.nan, 0, np.nan])
    np.testing.assert_array_equal(table.largest["stress"], [1, np.nan, np.nan, np.nan])
    assert table.composition[:, 29].tolist() == [0, 0, 1, 0]
    assert dataset.num_atoms.tolist() == [2, 2, 1, 2]
    assert dataset.num_edges(GraphSpec(cutoff=3.0)).tolist()[:3] == [12, 12, 12]
