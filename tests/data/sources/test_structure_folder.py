"""The folder layout of the original CGCNN code."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest

from epitaxy.data.sources.structure_folder import StructureFolder
from epitaxy.data.field_rule import FieldRule
from epitaxy.data.sources.contract import BadRecord
from epitaxy.errors import SourceError
from epitaxy.graph.record import CrystalRecord

CIF = """data_x
_cell_length_a {a}
_cell_length_b {a}
_cell_length_c {a}
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
Po1 Po 0 0 0
"""
FIELDS = {"target": FieldRule("1", "eV")}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "cifs"
    folder.mkdir()
    (folder / "id_prop.csv").write_text("10,1.5\n7, 2.5\n\n")
    for name, length in (("10", 3.0), ("7", 4.0)):
        (folder / f"{name}.cif").write_text(CIF.format(a=length))
    return folder


def read(path: Path, **options: Any) -> list[Any]:
    return list(StructureFolder(options.pop("fields", FIELDS), **options).read(str(path)))


def test_rows_of_the_table_in_order(folder: Path) -> None:
    first, second = read(folder)
    assert (first.id, second.id) == ("10", "7")
    assert float(second.labels["target"].value) == 2.5
    assert first.volume == pytest.approx(27)
    assert first.numbers.tolist() == [84]


@pytest.mark.parametrize("ending", ["tar", "tar.gz"])
def test_an_archive_is_read_alike(folder: Path, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"cifs.{ending}"
    with tarfile.open(path, "w:gz" if ending.endswith("gz") else "w") as archive:
        archive.add(folder, "deep/cifs")
    assert read(path) == read(folder)


def test_further_columns_and_another_table(folder: Path) -> None:
    (folder / "two.csv").write_text("7,0,1.25\n")
    (record,) = read(folder, fields={"gap": FieldRule("2", "eV")}, table="two.csv")
    assert float(record.labels["gap"].value) == 1.25


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("11,1", r"there is no file 11\.cif"),
        ("10", "there is no '1' for label 'target'"),
        ("10,high", "'1' is 'high', not a number"),
    ],
)
def test_bad_rows_are_named(folder: Path, row: str, message: str) -> None:
    (folder / "id_prop.csv").write_text(f"{row}\n7,2.5\n")
    bad, good = read(folder)
    assert isinstance(good, CrystalRecord)
    assert isinstance(bad, BadRecord)
    assert bad.where.startswith(f"{folder}: id_prop.csv, row 0 (1")
    with pytest.raises(type(bad.error), match=message):
        raise bad.error


def test_files_that_are_not_listed_are_reported(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copy(folder / "7.cif", folder / "8.cif")
    assert len(read(folder)) == 2
    assert "1 CIF files are not listed in id_prop.csv and were not read, e.g. 8.cif" in caplog.text


def test_other_things_are_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "id_prop.csv").rename(folder / "table.csv")
    with pytest.raises(SourceError, match=r"there is no file .*id_prop\.csv"):
        read(folder)
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(folder, "cifs")
    with pytest.raises(SourceError, match=r"a\.tar holds no id_prop\.csv"):
        read(tmp_path / "a.tar")
    (tmp_path / "b.tar.gz").write_bytes(b"no archive")
    with pytest.raises(SourceError, match="neither a folder nor a readable tar"):
        read(tmp_path / "b.tar.gz")


def test_a_truncated_archive_is_named(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, "cifs")
    path.write_bytes(path.read_bytes()[:150])
    with pytest.raises(SourceError, match=r"a\.tar\.gz is neither"):
        read(path)


def test_a_real_archive(data_dir: Path) -> None:
    records = read(data_dir / "importers" / "cif_dir_crysxpp_200.tar.gz")
    assert len(records) == 200
    assert all(isinstance(record, CrystalRecord) for record in records)
    assert len({record.id for record in records}) == 200
