"""Folders and archives of structure files, with and without a table."""

from __future__ import annotations

import gzip
import json
import logging
import shutil
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms

from epitaxy.data.field_rule import FieldRule
from epitaxy.data.sources.contract import BadRecord
from epitaxy.data.sources.structure_folder import StructureFolder
from epitaxy.errors import ConfigError, SourceError
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
    (folder / "atom_init.json").write_text("{}")
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


@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tar.xz", "zip"])
def test_an_archive_is_read_alike(folder: Path, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"cifs.{ending}"
    if ending == "zip":
        with zipfile.ZipFile(path, "w") as zipped:
            for file in folder.iterdir():
                zipped.write(file, f"deep/cifs/{file.name}")
    else:
        with tarfile.open(path, f"w:{ending[4:]}") as archive:  # type: ignore[call-overload]
            archive.add(folder, "deep/cifs")
    assert read(path) == read(folder)
    assert read(path, table="", fields={}) == read(folder, table="", fields={})


def test_further_columns_and_another_table(folder: Path) -> None:
    (folder / "two.csv").write_text("7,0,1.25\n")
    (record,) = read(folder, fields={"gap": FieldRule("2", "eV")}, table="two.csv")
    assert float(record.labels["gap"].value) == 1.25


def test_tables_with_a_header_and_other_delimiters(folder: Path) -> None:
    (folder / "t.csv").write_text("name;gap;phase\r\n10;1.5;a\r\n7;;b\r\n")
    options = {"table": "t.csv", "header": True, "delimiter": ";"}
    fields = {"gap": FieldRule("gap", "eV")}
    first, second = read(folder, fields=fields, id="po-{name}", group="phase", **options)
    assert (first.id, first.group, second.id, second.group) == ("po-10", "a", "po-7", "b")
    assert float(first.labels["gap"].value) == 1.5
    assert not second.labels
    same = read(folder, fields={"gap": FieldRule("1", "eV")}, id="po-{0}", group="2", **options)
    assert same == [first, second]
    assert read(folder, fields=fields, file="{name}.cif", id="po-{0}", group="2", **options) == same


def test_columns_as_a_vector(folder: Path) -> None:
    (folder / "id_prop.csv").write_text("10,1,2,3\n7,,,\n7,1,,3\n")
    first, empty, part = read(folder, fields={"dos": FieldRule("1:4")})
    assert first.labels["dos"].value.tolist() == [1, 2, 3]
    assert not empty.labels
    assert "1 of the 3 columns '1:4' are empty" in str(part.error)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("11,1", r"there is no file '11\.cif' in the folder"),
        ("10", "there is no '1' for label 'target'"),
        ("10,high", "'1' is 'high', not a number"),
        ("../secret,1", "lies outside of the folder"),
        ("/etc/passwd,1", "lies outside of the folder|no file"),
        ("1" * 300 + ",1", "no name of a file|no file"),
        ("1\x00,1", "no name of a file|no file"),
        (",1", "'0' is empty, and the file is made of it"),
    ],
)
def test_bad_rows_are_named(folder: Path, row: str, message: str) -> None:
    (folder.parent / "secret.cif").write_text(CIF.format(a=3))
    (folder / "id_prop.csv").write_text(f"{row}\n7,2.5\n")
    bad, good = read(folder)
    assert isinstance(good, CrystalRecord)
    assert isinstance(bad, BadRecord)
    assert bad.where.startswith(f"{folder}: id_prop.csv, row 0 (")
    with pytest.raises(type(bad.error), match=message):
        raise bad.error


def test_files_that_are_not_listed_are_reported(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert len(read(folder)) == 2
    assert "not listed" not in caplog.text
    shutil.copy(folder / "7.cif", folder / "8.cif")
    shutil.copy(folder / "7.cif", folder / "._8.cif")  # as macOS leaves
    assert len(read(folder)) == 2
    assert "1 .cif files are not listed in id_prop.csv and were not read, e.g. 8.cif" in caplog.text


def test_a_folder_without_a_table(folder: Path) -> None:
    (folder / "more" / "deep").mkdir(parents=True)
    shutil.copy(folder / "7.cif", folder / "more" / "deep" / "9.cif")
    shutil.copy(folder / "7.cif", folder / "._7.cif")
    records = read(folder, table="", fields={})
    assert [record.id for record in records] == ["10", "7", "9"]
    by_path = read(folder, table="", fields={}, id="path")
    assert [record.id for record in by_path] == ["10", "7", "more/deep/9"]
    with pytest.raises(SourceError, match=r"holds no \*\.vasp"):
        read(folder, table="", fields={}, file="{0}.vasp")


def test_compressed_files_and_other_encodings(folder: Path) -> None:
    (folder / "10.cif").unlink()
    text = "# réfugié\n" + CIF.format(a=3.0)
    (folder / "10.cif.gz").write_bytes(gzip.compress(text.encode("latin1")))
    records = read(folder, table="", fields={}, file="{0}.cif*")
    assert [record.id for record in records] == ["10", "7"]
    (folder / "7.cif").unlink()
    (folder / "7.cif.gz").write_bytes((folder / "10.cif.gz").read_bytes()[:60])
    good, bad = read(folder, file="{0}.cif.gz")
    assert good.volume == pytest.approx(27)
    assert "cut off or damaged" in str(bad.error)


def test_poscars_and_rows_of_ase(tmp_path: Path) -> None:
    (tmp_path / "POSCAR-1.vasp").write_text("x\n1\n3 0 0\n0 3 0\n0 0 3\nPo\n1\nDirect\n0 0 0\n")
    cluster = Atoms("Pt2", [[0, 0, 0], [2.6, 0, 0]], cell=[20, 20, 20], pbc=False)
    cluster.write(tmp_path / "2.json", format="json")
    cluster.write(tmp_path / "3.json", format="json")
    table = json.loads((tmp_path / "3.json").read_text())
    (tmp_path / "3.json").write_text(json.dumps({**table, "2": table["1"], "ids": [1, 2]}))
    (tmp_path / "id_prop.csv").write_text("POSCAR-1.vasp,1\n2.json,2\n3.json,3\n")
    crystal, pair, bad = read(tmp_path, file="{0}")
    assert crystal.volume == pytest.approx(27)
    assert pair.numbers.tolist() == [78, 78]
    assert not pair.pbc.any()
    assert pair.id == "2.json"
    assert "an ASE database of 2 structures" in str(bad.error)


def test_other_things_are_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "id_prop.csv").rename(folder / "table.csv")
    with pytest.raises(SourceError, match=r"holds no id_prop\.csv; name the table in the recipe"):
        read(folder)
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(folder, "cifs")
    with pytest.raises(SourceError, match=r"a\.tar holds no id_prop\.csv"):
        read(tmp_path / "a.tar")
    for name in ("a", "b"):
        shutil.copytree(folder, folder / name, ignore=shutil.ignore_patterns("a", "b"))
    (folder / "table.csv").unlink()
    with pytest.raises(SourceError, match=r"holds 2 of table\.csv: a/table\.csv, b/table\.csv"):
        read(folder, table="table.csv")
    (tmp_path / "b.tar.gz").write_bytes(b"no archive")
    with pytest.raises(SourceError, match="neither a folder nor a readable archive"):
        read(tmp_path / "b.tar.gz")
    with pytest.raises(SourceError, match="there is no folder or archive"):
        read(tmp_path / "nowhere")
    for options, message in (({"file": ""}, "file must be"), ({"file": "/x"}, "file must be"),
                             ({"delimiter": ",,"}, "delimiter must be one")):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            StructureFolder({}, **options)  # type: ignore[arg-type]


def test_a_truncated_archive_is_named(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, "cifs")
    path.write_bytes(path.read_bytes()[:150])
    with pytest.raises(SourceError, match=r"a\.tar\.gz is neither"):
        read(path)


def test_a_table_with_a_quote_that_never_ends_is_named(folder: Path) -> None:
    (folder / "id_prop.csv").write_text('10,"' + "1,2\n" * 50_000)
    with pytest.raises(SourceError, match=r"id_prop\.csv, line \d+: .*(limit|end of data)"):
        read(folder)


def test_a_table_in_another_encoding_is_named(folder: Path) -> None:
    (folder / "id_prop.csv").write_bytes("10,é\n".encode("latin1"))
    with pytest.raises(SourceError, match=r"id_prop\.csv is not UTF-8"):
        read(folder)


def importers(data_dir: Path, name: str, **options: Any) -> list[Any]:
    return read(data_dir / "importers" / name, **options)


def test_the_sample_of_cgcnn(data_dir: Path) -> None:
    records = importers(data_dir, "cgcnn_sample_regression")
    assert [float(record.labels["target"].value) for record in records] == list(range(1, 11))
    assert records[0].id == "1000041"
    kinds = importers(data_dir, "cgcnn_sample_regression", table="id_prop.classification.csv")
    assert len(kinds) == 10


def test_two_hundred_crystals_of_crysxpp(data_dir: Path) -> None:
    source = StructureFolder(FIELDS)
    pieces = list(source.pieces(str(data_dir / "importers" / "cif_dir_crysxpp_200.tar.gz")))
    assert len(pieces) == 200
    records: list[Any] = [source.record(piece) for piece in pieces[:5]]  # type: ignore[arg-type]
    assert records[0].id == "4"
    assert float(records[0].labels["target"].value) == -0.34980744464285607


def test_poscars_of_alignn(data_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Fifty rows, seventy files."""
    with caplog.at_level(logging.WARNING):
        records = importers(data_dir, "poscar_dir_alignn.tar.gz", file="{0}")
    assert len(records) == 50
    assert all(isinstance(record, CrystalRecord) for record in records)
    assert "20 .vasp files are not listed" in caplog.text
    assert (records[0].id, float(records[0].labels["target"].value)) == (
        "POSCAR-JVASP-90856.vasp",
        0,
    )


def test_three_hundred_columns_are_one_vector(data_dir: Path) -> None:
    records = importers(
        data_dir, "poscar_dir_alignn_multi.tar.gz", file="{0}", fields={"dos": FieldRule("1:301")}
    )
    assert len(records) == 50
    assert {record.labels["dos"].value.shape for record in records} == {(300,)}
    assert records[0].labels["dos"].value[:2].tolist() == [
        0.026399112342704156,
        0.026668810423400677,
    ]


def test_clusters_of_platinum(data_dir: Path) -> None:
    source = StructureFolder(FIELDS, table="targets.csv", file="{0}.json")
    path = str(data_dir / "importers" / "matdeeplearn_test_data.tar.gz")
    pieces: list[Any] = list(source.pieces(path))
    assert len(pieces) == 1000
    records = [source.record(piece) for piece in pieces[::50]]
    for record in records:
        assert set(record.numbers.tolist()) == {78}
        assert not record.pbc.any()
        np.testing.assert_array_equal(record.cell, np.eye(3) * 20)
    assert (records[0].id, float(records[0].labels["target"].value)) == ("14816", -41.39614)
