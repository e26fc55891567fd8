"""Space groups of known structures, in any cell; pymatgen and the Materials Project agree."""

from __future__ import annotations

import csv
import gzip
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from epitaxy.data.symmetry import (
    CRYSTAL_SYSTEM,
    CRYSTAL_SYSTEMS,
    MAX_ATOMS,
    SPACE_GROUP,
    crystal_system,
    symmetry_labels,
    with_symmetry,
)
from epitaxy.errors import RecordError
from epitaxy.graph.record import AMOUNT, CrystalRecord, Label
from epitaxy.graph.symbols import atomic_number


def group_of(record: CrystalRecord, symprec: float = 0.01) -> int:
    return int(symmetry_labels(record, symprec)[SPACE_GROUP].value)


def test_known_structures(crystals: Any) -> None:
    """Fm-3m 225, Pm-3m 221, P6_3/mmc 194 (Mg), P3_121 152 (quartz), P-1 2, P1 1."""
    assert group_of(crystals.fcc()) == group_of(crystals.fcc(primitive=False)) == 225
    assert group_of(crystals.rocksalt()) == 225
    assert group_of(crystals.perovskite()) == 221
    hexagonal = np.array([[3.21, 0, 0], [-1.605, 1.605 * np.sqrt(3), 0], [0, 0, 5.21]])
    close_packed = np.array([[1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]])
    assert group_of(crystals.record("Mg", [12, 12], close_packed, hexagonal)) == 194
    assert group_of(crystals.triclinic(3, 4)) == 1
    assert group_of(crystals.triclinic(3, 1)) == 2  # one atom: every lattice has inversion


def test_quartz_is_trigonal(crystals: Any) -> None:
    """α-quartz, P3_221 (154): a 4.913 Å, c 5.405 Å, Si 3a at x 0.470, O 6c."""
    cell = np.array([[4.913, 0, 0], [-2.4565, 4.913 * np.sqrt(3) / 2, 0], [0, 0, 5.405]])
    silicon = [(0.470, 0, 2 / 3), (0, 0.470, 1 / 3), (-0.470, -0.470, 0)]
    x, y, z = 0.413, 0.267, 0.786
    oxygen = [
        (x, y, z), (-y, x - y, z + 2 / 3), (-x + y, -x, z + 1 / 3),
        (y, x, -z), (x - y, -y, -z + 1 / 3), (-x, -x + y, -z + 2 / 3),
    ]  # fmt: skip
    record = crystals.record("quartz", [14] * 3 + [8] * 6, np.array(silicon + oxygen), cell)
    labels = symmetry_labels(record)
    assert labels[SPACE_GROUP].value == 154
    assert CRYSTAL_SYSTEMS[int(labels[CRYSTAL_SYSTEM].value)] == "trigonal"


def test_labels_state_tool_and_tolerance(crystals: Any) -> None:
    label = symmetry_labels(crystals.fcc(), symprec=0.1)[CRYSTAL_SYSTEM]
    assert (label.unit, label.per_atom, label.value.shape) == ("", False, ())
    assert label.scheme == "spglib, symprec 0.1 Å, angle tolerance 5°"


def test_the_tolerance_decides(crystals: Any) -> None:
    """A cubic perovskite whose B atom is 0.05 Å off centre is tetragonal P4mm (99) for 0.01 Å."""
    cubic = crystals.perovskite()
    moved = cubic.positions + np.array([[0, 0, 0], [0, 0, 0.05], [0, 0, 0], [0, 0, 0], [0, 0, 0]])
    assert group_of(cubic.replace(positions=moved)) == 99
    assert group_of(cubic.replace(positions=moved), symprec=0.1) == 221


@pytest.mark.parametrize(
    ("number", "name"),
    [(1, "triclinic"), (2, "triclinic"), (3, "monoclinic"), (15, "monoclinic"),
     (16, "orthorhombic"), (74, "orthorhombic"), (75, "tetragonal"), (142, "tetragonal"),
     (143, "trigonal"), (167, "trigonal"), (168, "hexagonal"), (194, "hexagonal"),
     (195, "cubic"), (230, "cubic")],
)  # fmt: skip
def test_systems_change_where_the_international_tables_say(number: int, name: str) -> None:
    assert CRYSTAL_SYSTEMS[crystal_system(number)] == name


@pytest.mark.parametrize("number", [0, 231, -1])
def test_no_such_space_group(number: int) -> None:
    with pytest.raises(RecordError, match="no space group"):
        crystal_system(number)


def test_sheared_cells_are_the_same_crystal_and_quick(crystals: Any) -> None:
    """Without a reduction of the cell the search runs for minutes, or fails, on some of these."""
    started = time.perf_counter()
    for shear in (7, 100, 1000):
        basis = np.array([[1, shear, shear // 3], [0, 1, -shear], [0, 0, 1]], dtype=float)
        for record, number in ((crystals.rocksalt(), 225), (crystals.perovskite(), 221)):
            assert group_of(record.replace(cell=basis @ record.cell)) == number
    assert time.perf_counter() - started < 10


def test_mirrored_axes_and_atoms_outside_the_cell(crystals: Any) -> None:
    record = crystals.rocksalt()
    left_handed = record.cell[[1, 0, 2]]
    assert np.linalg.det(left_handed) < 0
    far = record.positions + np.array([3, -2, 5]) @ record.cell
    assert group_of(record.replace(cell=left_handed, positions=far)) == 225


def test_no_crystal_no_label(crystals: Any) -> None:
    record = crystals.fcc()
    for pbc in ([False] * 3, [True, True, False]):
        assert symmetry_labels(record.replace(pbc=np.array(pbc))) == {}
    amount = {AMOUNT: Label(np.array([2.0]), "", per_atom=True)}
    assert symmetry_labels(record.replace(labels=amount)) == {}
    assert with_symmetry(record.replace(labels=amount))[1] == ""


def test_a_failure_is_told_and_the_record_kept(crystals: Any) -> None:
    """Two atoms 0.005 Å apart lie on each other within 0.01 Å."""
    record = crystals.record("twins", [8, 8], np.array([[0, 0, 0], [0.001, 0, 0]]), np.eye(3) * 5)
    with pytest.raises(RecordError, match=r"'twins'.*no space group within 0.01 Å"):
        symmetry_labels(record)
    kept, reason = with_symmetry(record)
    assert kept == record
    assert "twins" in reason


def test_a_huge_cell_is_refused_at_once(crystals: Any) -> None:
    count = MAX_ATOMS + 1
    fractions = np.random.default_rng(0).uniform(size=(count, 3))
    record = crystals.record("huge", np.full(count, 6), fractions, np.eye(3) * 100)
    with pytest.raises(RecordError, match=f"{count} atoms"):
        symmetry_labels(record)


def test_labels_join_those_that_are_there(crystals: Any) -> None:
    record, reason = with_symmetry(crystals.labelled(crystals.rocksalt()))
    assert reason == ""
    assert set(record.labels) == {"energy", "forces", "stress", SPACE_GROUP, CRYSTAL_SYSTEM}


def structures(path: Path, count: int) -> list[tuple[dict[str, str], Any]]:
    """Rows of a table with the structure of their ``cif`` column as pymatgen reads it."""
    from pymatgen.core import Structure

    csv.field_size_limit(10**8)
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        rows = list(islice(csv.DictReader(stream), count))
    return [(row, Structure.from_str(row["cif"], fmt="cif")) for row in rows]


def record_of(structure: Any) -> CrystalRecord:
    numbers = [atomic_number(site.specie.symbol) for site in structure]
    return CrystalRecord("x", np.array(numbers), structure.cart_coords, structure.lattice.matrix)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("count", [60, pytest.param(2000, marks=pytest.mark.slow)])
def test_pymatgen_agrees_on_real_crystals(data_dir: Path, count: int) -> None:
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

    found = structures(data_dir / "small" / "mp_2000.csv.gz", count)
    for row, structure in found:
        expected = SpacegroupAnalyzer(structure).get_space_group_number()
        assert group_of(record_of(structure)) == expected, row["material_id"]


@pytest.mark.filterwarnings("ignore")
def test_the_materials_project_agrees_at_its_tolerance(data_dir: Path) -> None:
    """They publish what 0.1 Å finds; the coordinates here are rounded, so a few differ."""
    found = structures(data_dir / "mp_20" / "mp_20_binary_ternary_val.csv.gz", 120)
    published = [int(row["spacegroup.number"]) for row, _ in found]
    ours = [group_of(record_of(structure), symprec=0.1) for _, structure in found]
    assert np.mean(np.equal(ours, published)) > 0.97
