"""Tables with a structure or a formula in each row."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from epitaxy.data.field_rule import FieldRule
from epitaxy.data.sources.contract import BadRecord
from epitaxy.data.sources.csv_table import CsvTable
from epitaxy.errors import ConfigError, SourceError
from epitaxy.graph.record import CrystalRecord

CIF = """data_x
_cell_length_a 4
_cell_length_b 4
_cell_length_c 4
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
Na1 Na 0 0 0
N1 N 0.5 0.5 0.5
"""
FIELDS = {"gap": FieldRule("band_gap", "eV", "PBE")}
HEADER = ["material_id", "formula", "band_gap", "cif"]


def write(path: Path, *rows: list[str], header: list[str] = HEADER, **style: Any) -> str:
    opener: Any = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", newline="", encoding=style.pop("encoding", "utf-8")) as stream:
        csv.writer(stream, **style).writerows([header, *rows])
    return str(path)


def read(path: str, fields: dict[str, FieldRule] = FIELDS, **options: Any) -> list[Any]:
    options.setdefault("id", "material_id")
    return list(CsvTable(fields, **options).read(path))


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_rows_become_records(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, ["m-1", "NaN", "1.5", CIF], ["m-2", "NaN", "", CIF])
    first, second = read(path, group="formula")
    assert (first.id, first.group) == ("m-1", "NaN")  # sodium nitride, not a missing value
    assert (float(first.labels["gap"].value), first.labels["gap"].unit) == (1.5, "eV")
    assert first.numbers.tolist() == [11, 7]
    assert dict(second.labels) == {}
    assert [record.id for record in read(path, id="")] == ["a-0", "a-1"]
    assert [record.id for record in read(path, id="{formula}/{row:03d}")] == ["NaN/001", "NaN/002"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("style", [{}, {"encoding": "utf-8-sig"}, {"lineterminator": "\r\n"}])
def test_what_spreadsheets_write(tmp_path: Path, delimiter: str, style: dict[str, str]) -> None:
    header = ["material_id", " formula", "band_gap ", "cif"]
    row = ["m-1", "NaN", " 1.5", CIF]
    path = write(tmp_path / "a.csv", row, [], header=header, delimiter=delimiter, **style)
    (record,) = read(path, delimiter=delimiter, group="formula")
    assert (record.id, record.group, float(record.labels["gap"].value)) == ("m-1", "NaN", 1.5)


def test_another_delimiter_gets_a_hint(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", ["m-1", "NaN", "1", CIF], delimiter=";")
    with pytest.raises(SourceError, match=r"no column .* look separated by ';': set delimiter"):
        read(path)
    for delimiter in ("", ",,", '"', "\n"):
        with pytest.raises(ConfigError, match="delimiter must be one character"):
            CsvTable(FIELDS, delimiter=delimiter)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (["m-1", "Na", "wide", CIF], "'band_gap' is 'wide', not a number"),
        (["m-1", "Na", "1,5", CIF], "'1,5', not a number; write it as plain 1.5"),
        (["m-1", "Na", "1 000.5", CIF], "not a number; write it as plain 1000.5"),
        (["m-1", "Na", "NaN", CIF], "'gap' holds NaN"),
        (["m-1", "Na", "1", "data_x"], "the CIF cannot be read"),
        (["m-1", "Na", "1", ""], "the structure is empty"),
        (["", "Na", "1", CIF], "'material_id' is empty, and the id is made of it"),
        (["m-1", "Na", "1"], "more or fewer cells"),
        (["m-1", "Na", "1", CIF, "x"], "more or fewer cells"),
        (["m-1", "Na", "1", CIF.replace("a 4", "a 0")], "span no volume|cannot be read"),
    ],
)
def test_bad_rows_are_named_and_passed_over(tmp_path: Path, row: list[str], message: str) -> None:
    path = write(tmp_path / "a.csv", ["m-0", "Na", "0", CIF], row, ["m-2", "Na", "2", CIF])
    before, bad, after = read(path)
    assert (before.id, after.id) == ("m-0", "m-2")
    assert isinstance(bad, BadRecord)
    assert bad.where == f"{path}, row 1"
    with pytest.raises(type(bad.error), match=message):
        raise bad.error


def test_a_missing_column_gets_a_hint(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", header=["material_id", "formula", "bandgap", "cif"])
    with pytest.raises(SourceError, match="no column 'band_gap'; did you mean 'bandgap'"):
        read(path)
    for option in ("group", "id", "structure"):
        with pytest.raises(SourceError, match="no column 'spacegroup'"):
            read(write(tmp_path / "b.csv"), **{option: "spacegroup"})
    with pytest.raises(SourceError, match="no column 'jid'"):
        read(write(tmp_path / "b.csv"), id="{jid}-{row}")
    with pytest.raises(SourceError, match="no column 'h'"):
        read(write(tmp_path / "b.csv"), arrays={"cell": "h"})
    with pytest.raises(SourceError, match="no column 'cif'"):
        read(write(tmp_path / "c.csv", header=HEADER[:3]))
    with pytest.raises(SourceError, match="two columns 'band_gap'"):
        read(write(tmp_path / "d.csv", header=[*HEADER, "band_gap"]))
    (tmp_path / "empty.csv").touch()
    with pytest.raises(SourceError, match="no column 'band_gap'; Known: none"):
        read(str(tmp_path / "empty.csv"))


def test_columns_that_nobody_asks_for_may_be_twice(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", ["", "m", "x", "1", CIF, ""], header=["", *HEADER, ""])
    assert [record.id for record in read(path)] == ["m"]


def test_optional_columns(tmp_path: Path) -> None:
    fields = {"gap": FieldRule("gap_hse", "eV", optional=True)}
    (record,) = read(write(tmp_path / "a.csv", ["m-1", "NaN", "1", CIF]), fields)
    assert not record.labels


def test_structures_in_other_notations(tmp_path: Path) -> None:
    """pandas writes dictionaries as Python does, other tools as JSON."""
    atoms = {"lattice_mat": [[4, 0, 0], [0, 4, 0], [0, 0, 4]], "elements": ["Na", "N"],
             "coords": [[0, 0, 0], [0.5, 0.5, 0.5]], "cartesian": False}  # fmt: skip
    path = write(
        tmp_path / "a.csv", ["m-1", "NaN", "1", json.dumps(atoms)], ["m-2", "NaN", "1", str(atoms)],
        header=["material_id", "formula", "band_gap", "atoms"],
    )  # fmt: skip
    for record in read(path):
        assert record.positions.tolist() == [[0, 0, 0], [2, 2, 2]]
    columns = {"positions": "x", "elements": "s", "cell": "h"}
    row = ["m", "1", "[[0, 0, 0], [2, 2, 2]]", "['Na', 'N']", "[4, 4, 4]"]
    path = write(tmp_path / "b.csv", row, header=["material_id", "band_gap", "x", "s", "h"])
    (record,) = read(path, arrays=columns)
    assert record.numbers.tolist() == [11, 7]


def test_vectors_in_columns_or_in_a_cell(tmp_path: Path) -> None:
    header = ["material_id", "cif", "e0", "e1", "e2", "dos"]
    rows = [["m-0", CIF, "1", "2", "3", "[4, 5]"], ["m-1", CIF, "", "", "", ""],
            ["m-2", CIF, "1", "", "3", ""], ["m-3", CIF, "1", "x", "3", "[4"]]  # fmt: skip
    path = write(tmp_path / "a.csv", *rows, header=header)
    full, empty, part, bad = read(path, {"e": FieldRule("2:5")})
    assert full.labels["e"].value.tolist() == [1, 2, 3]
    assert not empty.labels
    assert "1 of the 3 columns '2:5' are empty" in str(part.error)
    assert "not a number" in str(bad.error)
    full, empty, _, bad = read(path, {"dos": FieldRule("dos")})
    assert full.labels["dos"].value.tolist() == [4, 5]
    assert "malformed" in str(bad.error)
    (missing, *_) = read(path, {"e": FieldRule("2:9")})
    assert "there is no '2:9'" in str(missing.error)


def test_compositions(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", ["NaN", "2.5"], ["Fe0.5Ni0.5", "1"], ["steel", "1"],
                 header=["composition", "band_gap"])  # fmt: skip
    nitride, alloy, bad = read(path, composition="composition", id="")
    assert nitride.numbers.tolist() == [7, 11]
    assert alloy.labels["amount"].value.tolist() == [0.5, 0.5]
    assert alloy.is_composition
    assert "no chemical formula" in str(bad.error)


def test_a_truncated_gzip_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.gz"
    write(path, *[[f"m-{i}", "NaN", str(i * 0.37), "x"] for i in range(4000)])
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(SourceError, match=r"a\.csv\.gz is cut off or damaged"):
        list(CsvTable(FIELDS).pieces(str(path)))


def test_an_open_quote_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('material_id,band_gap,cif\nm-1,1,"data_x\n')
    with pytest.raises(SourceError, match="line 2: unexpected end of data"):
        read(str(path))


def test_other_encodings_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", ["m-1", "é", "1", CIF], encoding="utf-16")
    with pytest.raises(SourceError, match=r"a\.csv is not UTF-8 text"):
        read(path)


def test_real_crystals(data_dir: Path) -> None:
    """The first row of the table, as an editor shows it."""
    fields = {"e": FieldRule("formation_energy_per_atom", "eV/atom")}
    source = CsvTable(fields, id="material_id", group="formula")
    record = next(source.read(str(data_dir / "small" / "mp_2000.csv.gz")))
    assert isinstance(record, CrystalRecord)
    assert (record.id, record.group, record.num_atoms) == ("mp-755001", "Er2TeO6", 18)
    assert float(record.labels["e"].value) == -2.9939296274999996
    assert record.volume == pytest.approx(247.48280855)
    assert sorted(record.numbers.tolist()) == [8] * 12 + [52] * 2 + [68] * 4
