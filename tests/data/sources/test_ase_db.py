"""Databases of ASE: every row, as ASE reads it."""

from __future__ import annotations

import gzip
import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import ase.db
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms

from epitaxy.data.field_rule import FieldRule
from epitaxy.data.sources.ase_db import AseDb
from epitaxy.data.sources.contract import BadRecord
from epitaxy.errors import RecordError, SourceError
from epitaxy.graph.record import CrystalRecord

FIELDS = {
    "energy": FieldRule("energy", "eV"),
    "forces": FieldRule("forces", "eV/Å", per_atom=True),
    "stress": FieldRule("stress", "eV/Å^3", sign="tension_positive", optional=True),
}


def read(path: Path, fields: dict[str, FieldRule] = FIELDS, **options: Any) -> list[Any]:
    return list(AseDb(fields, **options).read(str(path)))


def make(path: Path, count: int = 3) -> Path:
    with ase.db.connect(path) as database:
        for number in range(count):
            atoms = Atoms("NaCl", [[0, 0, 0], [2, 2, 2]], cell=[4, 4, 5], pbc=[1, 1, 0])
            atoms.calc = SinglePointCalculator(
                atoms, energy=-number, forces=np.full((2, 3), number), stress=[1, 2, 3, 4, 5, 6]
            )
            atoms.set_constraint(FixAtoms([0]))
            database.write(atoms, gap=number / 2, name=f"m{number}", data={"deep": {"x": number}})
    return path


@pytest.mark.parametrize("name", ["a.db", "a.json", "a.db.gz", "a.json.gz"])
def test_rows_become_records(tmp_path: Path, name: str) -> None:
    path = make(tmp_path / name.removesuffix(".gz"))
    if name.endswith(".gz"):
        packed = gzip.compress(path.read_bytes())
        path = tmp_path / name
        path.write_bytes(packed)
    fields = {**FIELDS, "gap": FieldRule("gap", "eV"), "x": FieldRule("data.deep.x")}
    records = read(path, fields, group="name")
    assert [record.id for record in records] == ["a-1", "a-2", "a-3"]
    last = records[2]
    assert last.group == "m2"
    assert last.numbers.tolist() == [11, 17]
    assert last.positions.tolist() == [[0, 0, 0], [2, 2, 2]]
    assert last.cell.tolist() == np.diag([4.0, 4, 5]).tolist()
    assert last.pbc.tolist() == [True, True, False]
    assert {k: float(last.labels[k].value) for k in ("energy", "gap", "x")} == {
        "energy": -2, "gap": 1, "x": 2,
    }  # fmt: skip
    assert (last.labels["forces"].value == 2).all()  # also of the atom that was fixed
    assert last.labels["stress"].value.tolist() == [[1, 6, 5], [6, 2, 4], [5, 4, 3]]  # Voigt


def test_rows_that_were_deleted_are_not_there(tmp_path: Path) -> None:
    path = make(tmp_path / "a.db")
    ase.db.connect(path).delete([2])
    assert [record.id for record in read(path)] == ["a-1", "a-3"]


def test_a_label_that_a_row_lacks(tmp_path: Path) -> None:
    (bad, *_) = read(make(tmp_path / "a.db"), {"gap": FieldRule("gap_hse", "eV")})
    assert isinstance(bad, BadRecord)
    assert bad.where == f"{tmp_path}/a.db, row 1"
    assert "there is no 'gap_hse' for label 'gap'" in str(bad.error)


@pytest.mark.parametrize("column", ["numbers", "positions", "cell", "forces", "data"])
def test_a_damaged_row_is_named_and_passed_over(tmp_path: Path, column: str) -> None:
    path = make(tmp_path / "a.db")
    connection = sqlite3.connect(path)
    connection.execute(f"UPDATE systems SET {column} = ? WHERE id = 2", (b"\x01\x02\x03",))
    connection.commit()
    connection.close()
    fields = {**FIELDS, "x": FieldRule("data.deep.x")}
    first, bad, last = read(path, fields)
    assert (first.id, last.id) == ("a-1", "a-3")
    assert isinstance(bad, BadRecord)
    with pytest.raises(RecordError, match="the row is damaged"):
        raise bad.error


def test_damaged_rows_of_json(tmp_path: Path) -> None:
    path = make(tmp_path / "a.json")
    content = json.loads(path.read_text())
    content["1"]["positions"]["__ndarray__"][0] = [7, 3]
    del content["2"]["numbers"]
    path.write_text(json.dumps(content))
    shape, numbers, good = read(path)
    assert "JSON array is malformed" in str(shape.error)
    assert "no row of an ASE database: it has no numbers" in str(numbers.error)
    assert isinstance(good, CrystalRecord)


def test_other_files_are_refused_and_left_as_they_are(tmp_path: Path) -> None:
    """ASE would make a database of an empty file and add its tables to a foreign one."""
    (tmp_path / "empty.db").touch()
    (tmp_path / "text.db").write_text("no database" * 100)
    connection = sqlite3.connect(tmp_path / "foreign.db")
    connection.execute("CREATE TABLE molecules (id INTEGER)")
    connection.commit()
    connection.close()
    make(tmp_path / "whole.db", 200)
    (tmp_path / "cut.db").write_bytes((tmp_path / "whole.db").read_bytes()[:20_000])
    for name in ("empty", "text", "foreign", "cut"):
        path = tmp_path / f"{name}.db"
        before = path.read_bytes()
        with pytest.raises(SourceError, match=f"{name}.db is no ASE database, or damaged"):
            read(path)
        assert path.read_bytes() == before
    (tmp_path / "text.json").write_text("no database")
    with pytest.raises(SourceError, match="must hold a JSON list or object"):
        read(tmp_path / "text.json")
    with pytest.raises(SourceError, match="there is no file"):
        read(tmp_path / "nowhere.db")


def test_a_database_in_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    folder = tmp_path / "odd name #1?"
    folder.mkdir()
    shutil.move(make(tmp_path / "a.db"), folder / "a.db")
    assert len(read(folder / "a.db")) == 3
    assert [path.name for path in folder.iterdir()] == ["a.db"]


@pytest.mark.parametrize(
    ("name", "count", "stress"),
    [
        ("asedb_mptraj_10.db", 10, True), ("asedb_mptraj_with_keys.db", 11, True),
        ("asedb_oxides.db.gz", 295, False),
    ],
)  # fmt: skip
def test_real_databases(
    data_dir: Path, tmp_path: Path, name: str, count: int, stress: bool
) -> None:
    path = data_dir / "importers" / name
    source = AseDb(FIELDS)
    pieces: list[Any] = list(source.pieces(str(path)))
    assert len(pieces) == count
    plain = tmp_path / "copy.db"
    content = path.read_bytes()
    plain.write_bytes(gzip.decompress(content) if name.endswith(".gz") else content)
    rows = list(ase.db.connect(plain).select())
    for piece, row in list(zip(pieces, rows, strict=True))[:: max(1, count // 10)]:
        record, atoms = source.record(piece), row.toatoms()
        np.testing.assert_array_equal(record.numbers, atoms.numbers)
        np.testing.assert_array_equal(record.positions, atoms.positions)
        np.testing.assert_array_equal(record.cell, atoms.cell.array)
        assert float(record.labels["energy"].value) == atoms.get_potential_energy()
        expected = atoms.get_forces(apply_constraint=False)
        np.testing.assert_allclose(record.labels["forces"].value, expected, rtol=1e-6)
        assert ("stress" in record.labels) == stress
        if stress:
            np.testing.assert_allclose(
                record.labels["stress"].value, atoms.get_stress(voigt=False), rtol=1e-12
            )


def test_keys_of_mptrj_stand_in_data(data_dir: Path) -> None:
    path = data_dir / "importers" / "asedb_mptraj_with_keys.db"
    rule = FieldRule("data.stress", "eV/Å^3", sign="tension_positive")
    for one, other in zip(read(path), read(path, {"stress": rule}), strict=True):
        np.testing.assert_allclose(
            one.labels["stress"].value, other.labels["stress"].value, atol=1e-9
        )
