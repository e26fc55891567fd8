"""Original JSON files of published data sets, against a reading of them by hand."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymatgen.core import Structure

from epitaxy.data.field_rule import FieldRule
from epitaxy.data.sources.contract import Piece
from epitaxy.data.sources.json_entries import JsonEntries
from epitaxy.graph.record import CrystalRecord

KBAR = 1602.1766208
SI = "xx,yy,zz,xy,yz,xz"
MLEARN_ORDER = {"Si": SI, "Ge": SI, "Mo": "xx,yy,zz,xy,xz,yz", "Ni": "xx,yy,zz,xy,xz,yz",
                "Cu": "xx,yy,zz,xy,xz,yz"}  # fmt: skip
FORCES = FieldRule("outputs.forces", "eV/Å", per_atom=True)


def stress(key: str, components: Any = SI) -> FieldRule:
    return FieldRule(key, "kbar", sign="compression_positive", components=components)


MLEARN = {
    "energy": FieldRule("outputs.energy", "eV"),
    "forces": FORCES,
    "stress": stress("outputs.virial_stress", MLEARN_ORDER),
}
MAML = {**MLEARN, "stress": stress("outputs.stress")}


def by_hand(path: Path) -> Any:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt") as stream:
        return json.load(stream)


def some(source: JsonEntries, path: Path, count: int, step: int) -> list[tuple[int, CrystalRecord]]:
    """Counts all entries and parses every ``step``-th."""
    chosen, total = [], 0
    for number, piece in enumerate(source.pieces(str(path))):
        total += 1
        if number % step == 0:
            assert isinstance(piece, Piece)
            chosen.append((number, source.record(piece)))
    assert total == count
    return chosen


def check_frame(record: CrystalRecord, entry: Any, raw_stress: Any, components: str) -> None:
    structure = Structure.from_dict(entry["structure"])
    np.testing.assert_array_equal(record.numbers, structure.atomic_numbers)
    np.testing.assert_allclose(record.positions, structure.cart_coords, atol=1e-9)
    np.testing.assert_array_equal(record.cell, structure.lattice.matrix)
    outputs = entry["outputs"]
    assert float(record.labels["energy"].value) == outputs["energy"]
    np.testing.assert_array_equal(
        record.labels["forces"].value, np.array(outputs["forces"], dtype=np.float32)
    )
    found = record.labels["stress"].value
    for name, value in zip(components.split(","), raw_stress, strict=True):
        first, second = "xyz".index(name[0]), "xyz".index(name[1])
        assert found[first, second] == pytest.approx(-value / KBAR, rel=1e-12)
        assert found[second, first] == found[first, second]


@pytest.mark.parametrize(
    ("name", "count"),
    [("Si_training", 214), ("Si_test", 25), ("Mo_training", 194), ("Mo_test", 23)],
)
def test_mlearn(data_dir: Path, name: str, count: int) -> None:
    path = data_dir / "forces" / "mlearn" / f"{name}.json.gz"
    entries = by_hand(path)
    for number, record in some(JsonEntries(MLEARN, group="group"), path, count, 12):
        entry = entries[number]
        assert (record.id, record.group) == (f"{name}-{number}", entry["group"])
        check_frame(record, entry, entry["outputs"]["virial_stress"], MLEARN_ORDER[name[:2]])


def test_mlearn_of_jarvis(data_dir: Path) -> None:
    path = data_dir / "forces" / "mlearn" / "jarvis_mlearn_Ni_Cu.json.gz"
    fields = {
        "energy": FieldRule("energy", "eV"),
        "forces": FieldRule("forces", "eV/Å", per_atom=True),
        "stress": stress("stresses", MLEARN_ORDER),
    }
    chosen = some(JsonEntries(fields, id="jid"), path, 587, 40)
    first = chosen[0][1]
    assert first.id == "Ni-1"
    assert float(first.labels["energy"].value) == -604.26225029
    raw = [41.40636025, 41.1876322, 51.06529127, 1.04252046, -4.77152572, 5.94496997]
    kbar = [[raw[0], raw[3], raw[4]], [raw[3], raw[1], raw[5]], [raw[4], raw[5], raw[2]]]
    np.testing.assert_allclose(first.labels["stress"].value, -np.array(kbar) / KBAR, rtol=1e-12)
    entry = by_hand(path)[0]["atoms"]
    expected = np.array(entry["coords"]) @ np.array(entry["lattice_mat"])
    np.testing.assert_allclose(first.positions, expected, atol=1e-9)
    assert all(len(set(record.numbers.tolist())) == 1 for _, record in chosen)


MAML_COUNTS = {"SS": 658, "AIMD": 200, "Elastic": 121}


def test_all_files_of_maml(data_dir: Path) -> None:
    """5,282 frames; every one is counted, and the first of each file compared."""
    total = 0
    source = JsonEntries(MAML, id="_id", group="group")
    for path in sorted((data_dir / "forces" / "MoNbTaW").glob("*.json.gz")):
        pieces: list[Any] = list(source.pieces(str(path)))
        total += len(pieces)
        kind = path.name.split(".")[0].split("_")[1]
        assert len(pieces) == MAML_COUNTS.get(kind, len(pieces))
        assert kind in MAML_COUNTS or 11 <= len(pieces) <= 13
        entry = pieces[0].content[1]
        record = source.record(pieces[0])
        assert record.id == entry["_id"]
        check_frame(record, entry, entry["outputs"]["stress"], SI)
        if kind == "Elastic":
            assert not record.labels["forces"].value.any()  # by symmetry
    assert total == 5282


def test_layout_of_mptrj(data_dir: Path) -> None:
    path = data_dir / "importers" / "mptrj_layout.json"
    fields = {
        "energy": FieldRule("uncorrected_total_energy", "eV"),
        "forces": FieldRule("force", "eV/Å", per_atom=True),
        "stress": stress("stress"),
        "magmom": FieldRule("magmom", "muB", per_atom=True),
        "gap": FieldRule("bandgap", "eV"),
    }
    records: list[Any] = list(JsonEntries(fields, levels=2, id="key", group="key0").read(str(path)))
    entries = {
        key: (material, entry)
        for material, frames in by_hand(path).items()
        for key, entry in frames.items()
    }
    assert [record.id for record in records] == list(entries)
    assert len(records) == 11
    assert len({record.group for record in records}) == 2
    for record in records:
        material, entry = entries[record.id]
        assert record.group == material
        assert float(record.labels["energy"].value) == entry["uncorrected_total_energy"]
        np.testing.assert_allclose(
            record.labels["stress"].value, -np.array(entry["stress"]) / KBAR, atol=1e-9
        )
        assert ("magmom" in record.labels) == (entry["magmom"] is not None)
        assert ("gap" in record.labels) == (entry["bandgap"] is not None)
    assert any("magmom" in record.labels for record in records)


def test_a_trajectory_of_alignn(data_dir: Path) -> None:
    path = data_dir / "importers" / "alignn_ff_id_prop.json"
    fields = {
        "energy": FieldRule("total_energy", "eV"),
        "forces": FieldRule("forces", "eV/Å", per_atom=True),
        "stress": stress("stresses"),
    }
    source = JsonEntries(fields, id="{jid}-{number}", group="jid")
    records: list[Any] = list(source.read(str(path)))
    assert len(records) == len({record.id for record in records}) == 50
    assert sorted({record.group for record in records}) == ["15607", "15608", "15609"]
    assert records[0].id == "15607-0"
    assert float(records[0].labels["energy"].value) == -29.31309578
    found = records[0].labels["stress"].value * KBAR
    np.testing.assert_allclose(np.diag(found), [-2.88305236, -2.53508705, -4.37433206], rtol=1e-9)
    assert found[1, 2] == pytest.approx(-(0.69248395 + 0.69248269) / 2)


def test_alignn_says_total_and_means_per_atom(data_dir: Path) -> None:
    """The same 214 frames as mlearn, in which ``total_energy`` is divided by the atoms."""
    path = data_dir / "importers" / "alignn_ff_mlearn_Si_id_prop.json.gz"
    fields = {"energy": FieldRule("total_energy", "eV/atom")}
    chosen = some(JsonEntries(fields, id="{number}"), path, 264, 30)
    mlearn = by_hand(data_dir / "forces" / "mlearn" / "Si_training.json.gz")
    for number, record in chosen:
        if number < 214:
            expected = mlearn[number]["outputs"]["energy"]
            assert float(record.labels["energy"].value) == pytest.approx(expected, rel=1e-9)


def test_elasticity(data_dir: Path) -> None:
    path = data_dir / "matcalc" / "mp_binary_elasticity.json.gz"
    fields = {
        "bulk": FieldRule("bulk_modulus_vrh", "GPa"),
        "shear": FieldRule("shear_modulus_vrh", "GPa"),
    }
    chosen = some(JsonEntries(fields, id="mp_id", group="formula"), path, 3240, 250)
    first = chosen[0][1]
    assert (first.id, first.group) == ("mp-975512", "InSb3")
    assert float(first.labels["bulk"].value) == 53.357
    assert float(first.labels["shear"].value) == 12.164
    assert all(len(set(record.numbers.tolist())) == 2 for _, record in chosen)


TRANSFER = {
    "gv": 5583, "ph": 1138, "fe": 7329, "bg": 7601, "dc": 950, "pz": 847, "ebg": 2203,
    "jarvis_2d": 993,
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name, count in TRANSFER.items() if count < 3000])
def test_transfer_sets(data_dir: Path, name: str) -> None:
    _check_transfer(data_dir, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, count in TRANSFER.items() if count >= 3000])
def test_large_transfer_sets(data_dir: Path, name: str) -> None:
    _check_transfer(data_dir, name)


def _check_transfer(data_dir: Path, name: str) -> None:
    path = data_dir / "transfer7" / f"{name}_train.json.gz"
    entries = by_hand(path)
    source = JsonEntries({"target": FieldRule("target")}, id="{file}-{jid}")
    count = TRANSFER[name]
    for number, record in some(source, path, count, count // 15):
        entry = entries[number]
        assert record.id == f"{name}_train-{entry['jid']}"
        assert float(record.labels["target"].value) == entry["target"]
        coords, cell = np.array(entry["atoms"]["coords"]), np.array(entry["atoms"]["lattice_mat"])
        assert entry["atoms"]["cartesian"] == (name == "jarvis_2d")
        expected = coords if name == "jarvis_2d" else coords @ cell
        np.testing.assert_allclose(record.positions, expected, atol=1e-9)


def test_the_first_entry_comes_at_once(data_dir: Path) -> None:
    """Reading on demand: the first entry of a file does not need the rest of it."""
    path = str(data_dir / "transfer7" / "bg_train.json.gz")
    source = JsonEntries({"target": FieldRule("target_raw")}, id="jid")
    first: Any = next(source.read(path))
    assert first.id == "18"
