"""Tables with a CIF column."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path
from typing import Any

import pytest

from epitaxy.data.field_rule import FieldRule
from epitaxy.data.sources.contract import BadRecord
from epitaxy.data.sources.csv_table import CsvTable
from epitaxy.errors import SourceError
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


def write(path: Path, *rows: list[str], header: list[str] = HEADER) -> str:
    opener: Any = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return str(path)


def read(path: str, **options: str) -> list[Any]:
    return list(CsvTable(FIELDS, **options).read(path))


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_rows_become_records(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, ["m-1", "NaN", "1.5", CIF], ["m-2", "NaN", "", CIF])
    first, second = read(path, group_column="formula")
    assert (first.id, first.group) == ("m-1", "NaN")  # sodium nitride, not a missing value
    assert (float(first.labels["gap"].value), first.labels["gap"].unit) == (1.5, "eV")
    assert first.numbers.tolist() == [11, 7]
    assert dict(second.labels) == {}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (["m-1", "Na", "wide", CIF], "'band_gap' is 'wide', not a number"),
        (["m-1", "Na", "NaN", CIF], "'gap' holds NaN"),
        (["m-1", "Na", "1", "data_x"], "the CIF cannot be read"),
        (["", "Na", "1", CIF], "needs a non-empty id"),
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
    assert bad.where == f"{path}, row 1 ({row[0] or 'without id'})"
    with pytest.raises(type(bad.error), match=message):
        raise bad.error


def test_a_missing_column_gets_a_hint(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", header=["material_id", "formula", "bandgap", "cif"])
    with pytest.raises(SourceError, match="no column 'band_gap'; did you mean 'bandgap'"):
        read(path)
    with pytest.raises(SourceError, match="no column 'spacegroup'"):
        read(write(tmp_path / "b.csv"), group_column="spacegroup")
    (tmp_path / "empty.csv").touch()
    with pytest.raises(SourceError, match="no column 'material_id'; Known: none"):
        read(str(tmp_path / "empty.csv"))


def test_a_truncated_gzip_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.gz"
    write(path, *[[f"m-{i}", "NaN", str(i * 0.37), CIF] for i in range(400)])
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(SourceError, match=r"a\.csv\.gz is cut off or damaged"):
        read(str(path))


def test_an_open_quote_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('material_id,band_gap,cif\nm-1,1,"data_x\n')
    with pytest.raises(SourceError, match="line 1: unexpected end of data"):
        read(str(path))


def test_real_crystals(data_dir: Path) -> None:
    """The first row of the table, as an editor shows it."""
    fields = {"e": FieldRule("formation_energy_per_atom", "eV/atom")}
    source = CsvTable(fields, group_column="formula")
    record = next(source.read(str(data_dir / "small" / "mp_2000.csv.gz")))
    assert isinstance(record, CrystalRecord)
    assert (record.id, record.group, record.num_atoms) == ("mp-755001", "Er2TeO6", 18)
    assert float(record.labels["e"].value) == -2.9939296274999996
    assert record.volume == pytest.approx(247.48280855)
    assert sorted(record.numbers.tolist()) == [8] * 12 + [52] * 2 + [68] * 4
