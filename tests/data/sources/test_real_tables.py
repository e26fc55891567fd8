"""Original tables of published data sets: all rows counted, some parsed, against pymatgen."""

from __future__ import annotations

import csv
import gzip
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymatgen.core import Composition, Structure

from epitaxy.data.field_rule import FieldRule
from epitaxy.data.sources.contract import BadRecord, Piece
from epitaxy.data.sources.csv_table import CsvTable
from epitaxy.graph.record import CrystalRecord


def by_hand(path: Path) -> list[dict[str, str]]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", newline="") as stream:
        return list(csv.DictReader(stream))


TABLES = {
    "mp_20/mp_20_binary_ternary_val.csv.gz": (6730, "formation_energy_per_atom"),
    "mp_20/mpts_52_val.csv.gz": (4723, "energy_above_hull"),
    "perov_5/val.csv.gz": (3787, "heat_ref"),
    "perov_5/train_rebuilt.csv.gz": (11_356, "e_form"),
    "small/mp_2000.csv.gz": (2000, "formation_energy_per_atom"),
}


def table(name: str) -> tuple[CsvTable, int, str]:
    count, column = TABLES[name]
    return (
        CsvTable({"y": FieldRule(column, "eV")}, structure="cif", id="material_id"),
        count,
        column,
    )


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_crystals(data_dir: Path, name: str) -> None:
    source, count, column = table(name)
    pieces = list(source.pieces(str(data_dir / name)))
    rows = by_hand(data_dir / name)
    assert len(pieces) == len(rows) == count
    for piece, row in list(zip(pieces, rows, strict=True))[:: count // 8]:
        assert isinstance(piece, Piece)
        record = source.record(piece)
        assert record.id == row["material_id"]
        assert float(record.labels["y"].value) == float(row[column])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            structure = Structure.from_str(row["cif"], fmt="cif")
        assert record.numbers.tolist() == list(structure.atomic_numbers)
        np.testing.assert_allclose(record.cell, structure.lattice.matrix, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
def test_every_row_is_a_crystal(data_dir: Path, name: str) -> None:
    source, count, _ = table(name)
    records = list(source.read(str(data_dir / name)))
    assert len(records) == count
    assert not [record for record in records if isinstance(record, BadRecord)]
    assert len({record.id for record in records}) == count  # type: ignore[union-attr]


def test_perovskites_have_five_atoms_in_a_cube(data_dir: Path) -> None:
    source, _, _ = table("perov_5/val.csv.gz")
    pieces = list(source.pieces(str(data_dir / "perov_5" / "val.csv.gz")))
    for piece in pieces[::400]:
        record = source.record(piece)  # type: ignore[arg-type]
        assert record.num_atoms == 5
        np.testing.assert_allclose(record.cell, np.eye(3) * record.cell[0, 0], atol=1e-9)


COMPOSITIONS = {
    "mp_non_metals.csv.gz": (38_791, "composition", "band_gap", "material_id"),
    "matbench_expt_gap.csv": (4_124, "formula", "target", "expt-{row:04d}"),
    "matbench_glass.csv": (5_078, "formula", "target", "{file}-{number}"),
    "matbench_steels_yield.csv": (279, "formula", "target", "formula"),
}


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_tables_of_compositions(data_dir: Path, name: str) -> None:
    count, column, target, identity = COMPOSITIONS[name]
    path = data_dir / "composition" / name
    source = CsvTable({"y": FieldRule(target)}, composition=column, id=identity)
    pieces = list(source.pieces(str(path)))
    rows = by_hand(path)
    assert len(pieces) == len(rows) == count
    for piece, row in list(zip(pieces, rows, strict=True))[:: max(1, count // 60)]:
        record: Any = source.record(piece)  # type: ignore[arg-type]
        assert isinstance(record, CrystalRecord)
        assert record.is_composition
        expected = {e.Z: amount for e, amount in Composition(row[column]).items()}
        amounts = dict(zip(record.numbers.tolist(), record.labels["amount"].value, strict=True))
        assert amounts == pytest.approx(expected, rel=1e-6)
        flag = {"True": 1.0, "False": 0.0}
        value = flag[row[target]] if row[target] in flag else float(row[target])
        assert float(record.labels["y"].value) == value


def test_labels_of_glass_are_zero_or_one(data_dir: Path) -> None:
    path = data_dir / "composition" / "matbench_glass.csv"
    source = CsvTable({"glass": FieldRule("target")}, composition="formula")
    values = {
        float(source.record(piece).labels["glass"].value)  # type: ignore[arg-type]
        for piece in list(source.pieces(str(path)))[::50]
    }
    assert values == {0.0, 1.0}
