"""Export: other programs read the same crystals, and so do we."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest

from epitaxy.data.convert import prepare
from epitaxy.data.dataset import Dataset
from epitaxy.data.export import export_extxyz, export_pyg
from epitaxy.data.recipe import Recipe
from epitaxy.data.rewrite import read_records, rewrite
from epitaxy.errors import ConfigError
from epitaxy.graph.record import AMOUNT, CrystalRecord, Label

BACK = Recipe.from_dict(
    {
        "source": {
            "_target_": "epitaxy.data.sources.extxyz.ExtendedXyz",
            "id_keys": ["id"],
            "group_keys": ["group"],
        },
        "fields": {
            "energy": {"key": "energy", "unit": "eV"},
            "forces": {"key": "forces", "unit": "eV/Å", "per_atom": True},
            "stress": {"key": "stress", "unit": "eV/Å^3", "sign": "tension_positive"},
        },
    },
    "back",
)


@pytest.fixture
def dataset(crystals: Any, tmp_path: Path) -> Dataset:
    records = crystals.many(9)
    odd = records[0].replace(
        id='say "hi" to Å = 1', group="a\\b c", pbc=np.array([True, True, False])
    )
    prepare([odd, *records[1:]], tmp_path / "data", checks="off", progress=False)
    return Dataset.open(tmp_path / "data")


@pytest.mark.parametrize("name", ["out.xyz", "out.xyz.gz"])
def test_what_is_exported_can_be_prepared_again(
    dataset: Dataset, tmp_path: Path, name: str
) -> None:
    """Every digit, id and group: the data digest covers them all."""
    assert export_extxyz(dataset, tmp_path / name) == 9
    prepare(tmp_path / name, tmp_path / "again", recipe=BACK, checks="off", progress=False)
    assert Dataset.open(tmp_path / "again").data_digest == dataset.data_digest


def test_ase_reads_the_same(dataset: Dataset, tmp_path: Path) -> None:
    export_extxyz(dataset, tmp_path / "out.xyz", np.array([3, 5]))
    frames = ase.io.read(tmp_path / "out.xyz", index=":")
    for atoms, record in zip(frames, read_records(dataset, np.array([3, 5])), strict=True):
        assert atoms.info["id"] == record.id
        np.testing.assert_array_equal(atoms.numbers, record.numbers)
        np.testing.assert_allclose(atoms.positions, record.positions, atol=1e-12)
        np.testing.assert_allclose(atoms.cell.array, record.cell, atol=1e-12)
        np.testing.assert_allclose(atoms.get_forces(), record.labels["forces"].value, rtol=1e-6)
        stress = atoms.get_stress(voigt=False)
        np.testing.assert_allclose(stress, record.labels["stress"].value, atol=1e-12)
        assert atoms.get_potential_energy() == float(record.labels["energy"].value)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
def test_pyg_reads_crystals_with_edges(dataset: Dataset, tmp_path: Path) -> None:
    from torch_geometric.data import InMemoryDataset

    assert export_pyg(dataset, tmp_path / "out.pt", cutoff=4.0) == 9
    read = InMemoryDataset()
    read.load(str(tmp_path / "out.pt"))
    assert len(read) == 9
    record = dataset.record(4)
    found = read[4]
    assert found.identity == record.id
    assert found.z.tolist() == record.numbers.tolist()
    np.testing.assert_allclose(found.cell[0].numpy(), record.cell, rtol=1e-6)
    np.testing.assert_allclose(float(found.energy), float(record.labels["energy"].value), rtol=1e-6)
    # Independent route: images within ±4 cells, by brute force.
    images = np.stack(np.meshgrid(*[np.arange(-4, 5)] * 3, indexing="ij"), -1).reshape(-1, 3)
    shifted = record.positions[None] + (images @ record.cell)[:, None]
    distances = np.linalg.norm(shifted[:, None] - record.positions[None, :, None], axis=-1)
    count = int(((distances <= 4.0) & (distances > 0.01)).sum())
    assert found.edge_index.shape == (2, count)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
def test_compositions_have_no_positions(tmp_path: Path) -> None:
    amounts = {AMOUNT: Label(np.array([1.0, 2.0]), "", per_atom=True)}
    water = CrystalRecord(
        "H2O", np.array([8, 1]), np.zeros((2, 3)), np.zeros((3, 3)), np.zeros(3, bool), amounts
    )
    prepare([water], tmp_path / "c", checks="off", progress=False)
    dataset = Dataset.open(tmp_path / "c")
    assert dataset.record(0).is_composition
    with pytest.raises(ConfigError, match="compositions"):
        export_extxyz(dataset, tmp_path / "out.xyz")
    assert not (tmp_path / "out.xyz").exists()
    assert export_pyg(dataset, tmp_path / "out.pt") == 1


def test_another_storage_keeps_digest_and_provenance(crystals: Any, tmp_path: Path) -> None:
    source = tmp_path / "a.xyz"
    prepare(crystals.many(5), tmp_path / "first", checks="off", progress=False)
    export_extxyz(Dataset.open(tmp_path / "first"), source)
    prepare(source, tmp_path / "lmdb", recipe=BACK, checks="off", progress=False)
    original = Dataset.open(tmp_path / "lmdb")
    manifest = rewrite(original, tmp_path / "zarr", format="zarr")
    assert manifest.storage == "zarr"
    assert manifest.data_digest == original.data_digest
    assert manifest.source == original.manifest.source
    assert manifest.conversions == original.manifest.conversions
    assert Dataset.open(tmp_path / "zarr").record(3) == original.record(3)
    rewrite(original, tmp_path / "two", rows=[4, 1])
    assert Dataset.open(tmp_path / "two").ids.tolist() == [original.ids[4], original.ids[1]]
