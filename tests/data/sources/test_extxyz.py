"""Extended XYZ: what it means, checked against ASE, and every way it can be wrong."""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest

from epitaxy.data.field_rule import FieldRule
from epitaxy.data.sources.contract import BadRecord
from epitaxy.data.sources.extxyz import ExtendedXyz
from epitaxy.errors import SourceError
from epitaxy.graph.record import CrystalRecord

FIELDS = {
    "energy": FieldRule("energy", "eV", optional=True),
    "forces": FieldRule("forces", "eV/Å", per_atom=True, optional=True),
    "stress": FieldRule("stress", "eV/Å^3", sign="tension_positive", optional=True),
}
LATTICE = 'Lattice="4 0 0 0 5 0 0 0 6" Properties=species:S:1:pos:R:3:forces:R:3'
ATOMS = ["Na 0 0 0 0.1 0.2 0.3", "Cl 2 2.5 3 -0.1 -0.2 -0.3"]


def write(
    path: Path, comment: str, atoms: list[str] | None = None, count: int | None = None
) -> str:
    atoms = ATOMS if atoms is None else atoms
    number = len(atoms) if count is None else count
    path.write_text("\n".join([str(number), comment, *atoms]) + "\n")
    return str(path)


def read_one(path: str, **options: Any) -> CrystalRecord:
    options.setdefault("fields", FIELDS)
    (item,) = ExtendedXyz(**options).read(path)
    assert isinstance(item, CrystalRecord), item
    return item


def why(path: str, **options: Any) -> str:
    options.setdefault("fields", FIELDS)
    (item,) = ExtendedXyz(**options).read(path)
    assert isinstance(item, BadRecord), item
    return f"{item.where}: {item.error}"


def test_a_frame_by_hand(tmp_path: Path) -> None:
    comment = LATTICE + ' name=000802 energy=-3.5 stress="1 4 5 4 2 6 5 6 3" pbc="T F T"'
    record = read_one(write(tmp_path / "a.xyz", comment), id_keys=["name"])
    assert record.id == record.group == "000802"  # leading zeros stay
    assert record.numbers.tolist() == [11, 17]
    assert record.cell.tolist() == [[4, 0, 0], [0, 5, 0], [0, 0, 6]]
    assert record.pbc.tolist() == [True, False, True]
    assert float(record.labels["energy"].value) == -3.5
    np.testing.assert_array_equal(record.labels["forces"].value[1], np.float32([-0.1, -0.2, -0.3]))
    assert record.labels["stress"].value.tolist() == [[1, 4, 5], [4, 2, 6], [5, 6, 3]]


def test_lattice_rows_are_vectors(tmp_path: Path) -> None:
    comment = 'Lattice="1 2 3 0 4 5 0 0 6" Properties=species:S:1:pos:R:3'
    record = read_one(write(tmp_path / "a.xyz", comment, ["He 0 0 0"]))
    assert record.cell.tolist() == [[1, 2, 3], [0, 4, 5], [0, 0, 6]]


def test_it_agrees_with_ase_on_real_frames(data_dir: Path) -> None:
    path = str(data_dir / "small" / "forces_300.xyz.gz")
    reader = ExtendedXyz(FIELDS, ["mptrj_snapshot_id", "internal_id"], ["mptrj_traj_id"])
    ours = [item for item in reader.read(path) if isinstance(item, CrystalRecord)]
    theirs = ase.io.read(path, index=":")
    mptrj = [(item, atoms) for item, atoms in zip(ours, theirs, strict=False)]
    assert len(mptrj) > 100
    for item, atoms in mptrj[:60]:
        np.testing.assert_array_equal(item.numbers, atoms.numbers)
        np.testing.assert_array_equal(item.positions, atoms.positions)
        np.testing.assert_array_equal(item.cell, atoms.cell.array)
        np.testing.assert_array_equal(item.pbc, atoms.pbc)
        assert float(item.labels["energy"].value) == atoms.get_potential_energy()
        np.testing.assert_allclose(item.labels["forces"].value, atoms.get_forces(), rtol=1e-7)
        np.testing.assert_allclose(
            item.labels["stress"].value, atoms.get_stress(voigt=False), rtol=1e-6, atol=1e-12
        )


@pytest.mark.parametrize(
    ("components", "expected"),
    [
        ("xx,yy,zz,yz,xz,xy", [[1, 6, 5], [6, 2, 4], [5, 4, 3]]),
        ("xx,yy,zz,xy,yz,xz", [[1, 4, 6], [4, 2, 5], [6, 5, 3]]),
    ],
)
def test_six_numbers_are_ordered_by_the_recipe(
    tmp_path: Path, components: str, expected: list[list[float]]
) -> None:
    rule = FieldRule("s", "eV/Å^3", sign="compression_positive", components=components)
    path = write(tmp_path / "a.xyz", LATTICE + ' s="1 2 3 4 5 6"')
    stress = read_one(path, fields={"stress": rule}).labels["stress"].value
    assert stress.tolist() == (-np.array(expected)).tolist()


@pytest.mark.parametrize(
    "text",
    [
        '"1 0 0 0 2 0 0 0 3"',
        "'1 0 0 0 2 0 0 0 3'",
        "{1 0 0 0 2 0 0 0 3}",
        "[[1,0,0],[0,2,0],[0,0,3]]",
        '"_JSON [[1, 0, 0], [0, 2, 0], [0, 0, 3]]"',
    ],
)
def test_arrays_are_written_in_many_ways(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "a.xyz", f"{LATTICE} stress={text} energy=-1")
    record = read_one(path)
    assert np.diag(record.labels["stress"].value).tolist() == [1, 2, 3]
    assert float(record.labels["energy"].value) == -1


def test_keys_are_free(tmp_path: Path) -> None:
    """Other programs call forces ``force`` and number the elements."""
    comment = 'Lattice="4 0 0 0 4 0 0 0 4" Properties=Z:I:1:pos:R:3:tags:I:1:force:R:3 REF_E=-1e-1'
    fields = {
        "energy": FieldRule("REF_E", "Ha"),
        "forces": FieldRule("force", "eV/Å", per_atom=True),
        "tags": FieldRule("tags", "", per_atom=True),
    }
    record = read_one(write(tmp_path / "a.xyz", comment, ["11 0 0 0 7 1 2 3"]), fields=fields)
    assert record.numbers.tolist() == [11]
    assert record.labels["forces"].value.tolist() == [[1, 2, 3]]
    assert record.labels["tags"].value.tolist() == [7]
    assert float(record.labels["energy"].value) == pytest.approx(-2.7211386)


def test_columns_of_the_structure_are_free(tmp_path: Path) -> None:
    lattice = 'Lattice="4 0 0 1 5 0 0 0 6" Properties='
    plain = read_one(
        write(tmp_path / "a.xyz", lattice + "species:S:1:pos:R:3", ["Na 0 0 0", "Cl 2.5 2.5 3"])
    )
    renamed = read_one(
        write(tmp_path / "b.xyz", lattice + "name:S:1:xyz:R:3", ["Na 0 0 0", "Cl 2.5 2.5 3"]),
        columns={"elements": "name", "positions": "xyz"},
    )
    fractional = read_one(
        write(
            tmp_path / "c.xyz", lattice + "s:R:3:Z:I:1:species:S:1",
            ["0 0 0 11 a", "0.5 0.5 0.5 17 b"],
        ),
        columns={"fractional": "s", "numbers": "Z"},
    )  # fmt: skip
    for record in (plain, renamed, fractional):
        assert record.numbers.tolist() == [11, 17]
        assert record.positions.tolist() == [[0, 0, 0], [2.5, 2.5, 3]]
        assert record.pbc.all()
    other = write(tmp_path / "d.xyz", 'cell="4 0 0 0 4 0 0 0 4" pbc="F F F"', ["Na 0 0 0"])
    record = read_one(other, lattice_key="cell")
    assert record.cell.tolist() == [[4, 0, 0], [0, 4, 0], [0, 0, 4]]
    assert not record.pbc.any()


@pytest.mark.parametrize(
    ("comment", "row", "options", "message"),
    [
        ("Properties=species:S:1:s:R:3", "Na 0 0 0", {"fractional": "s"}, "need a cell"),
        (
            'Lattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:s:R:1', "Na 0", {"fractional": "s"},
            "column 's' has 1 numbers, expected 3",
        ),
        ("Properties=species:S:1:pos:R:2", "Na 0 0", {}, "column 'pos' has 2 numbers, expected 3"),
        ("Properties=Z:I:1:pos:R:3", "17.5 0 0 0", {}, "atom 0: 17.5 is no atomic number"),
        ("Properties=Z:I:1:pos:R:3", "nan 0 0 0", {}, "atom 0: nan is no atomic number"),
        ("Properties=Z:I:2:pos:R:3", "1 1 0 0 0", {}, "positions has shape"),
        ("Properties=Z:I:1:pos:R:3", "0 0 0 0", {}, "atom 0: 0 is no atomic number"),
    ],
)  # fmt: skip
def test_columns_that_make_no_structure(
    tmp_path: Path, comment: str, row: str, options: dict[str, str], message: str
) -> None:
    path = write(tmp_path / "a.xyz", comment, [row])
    assert message in why(path, fields={}, columns=options)


def test_real_carbon_has_its_forces_in_another_column(data_dir: Path) -> None:
    """``frac_pos`` and the positions agree; ASE reports no forces for the column ``force``."""
    path = str(data_dir / "importers" / "extxyz_variant_carbon_100.xyz.gz")
    fields = {
        "energy": FieldRule("energy", "eV"),
        "forces": FieldRule("force", "eV/Å", per_atom=True),
    }
    records: list[Any] = list(ExtendedXyz(fields).read(path))
    shifted: list[Any] = list(ExtendedXyz(fields, columns={"fractional": "frac_pos"}).read(path))
    theirs = ase.io.read(path, index=":")
    assert len(records) == 100
    for record, other, atoms in zip(records, shifted, theirs, strict=True):
        assert set(record.numbers.tolist()) == {6}
        difference = (other.positions - record.positions) @ np.linalg.inv(record.cell)
        np.testing.assert_allclose(difference - np.round(difference), 0, atol=1e-4)
        np.testing.assert_allclose(record.labels["forces"].value, atoms.arrays["force"], rtol=1e-6)


def test_ids_and_groups(tmp_path: Path) -> None:
    path = tmp_path / "run.7.xyz"
    write(path, LATTICE + ' frame="a b" material=mp-1')
    path.write_text(path.read_text() * 2)
    unnamed = [item.id for item in ExtendedXyz(FIELDS).read(str(path))]  # type: ignore[union-attr]
    assert unnamed == ["run-0", "run-1"]
    reader = ExtendedXyz(FIELDS, ["name", "frame"], ["material"])
    first: Any = next(reader.read(str(path)))
    assert (first.id, first.group) == ("a b", "mp-1")


def test_a_molecule_has_no_cell(tmp_path: Path) -> None:
    record = read_one(write(tmp_path / "a.xyz", "", ["O 0 0 0", "H 1 0 0"]))
    assert not record.pbc.any()
    assert not record.cell.any()
    assert not record.labels


@pytest.mark.parametrize(
    ("comment", "atoms", "message"),
    [
        (LATTICE + " energy=NaN", None, "'energy' holds NaN"),
        (LATTICE + " energy=low", None, "'energy' is 'low', expected numbers"),
        (LATTICE + ' energy="1 2"', None, r"'energy' has shape \(2,\), expected one number"),
        (LATTICE, ["Na 0 0 0 1 2"], "atom 0 has 6 columns, expected 7"),
        (LATTICE, [*ATOMS, "Cl 1 1 1 0 0 0 0"], "atom 2 has 8 columns, expected 7"),
        (LATTICE, ["Na 0 0 0 1 2 x"], "column 'forces' holds something other than numbers"),
        (LATTICE, ["Na 0 0 nan 1 2 3"], "positions holds NaN"),
        (LATTICE, ["Na 0 0 0 inf 2 3"], "'forces' holds NaN or infinity"),
        (LATTICE, ["Xq 0 0 0 1 2 3"], "atom 0 is of unknown element 'Xq'"),
        (LATTICE, ["X 0 0 0 1 2 3"], "atom 0 is of unknown element 'X'"),
        (LATTICE.replace("0 0 6", "0 5 0"), None, "span no volume"),
        (LATTICE.replace("0 0 6", "0 6"), None, "'Lattice' has 8 numbers, expected 9"),
        (LATTICE + ' stress="1 2 3 4 5"', None, r"'stress' has shape \(5,\), expected 9 numbers"),
        (LATTICE + ' stress="0 1 0 2 0 0 0 0 0"', None, "'stress' is not symmetric"),
        (LATTICE + ' pbc="T T"', None, "'pbc' is 'T T', expected three"),
        ("Properties=species:S", None, "'Properties' is 'species:S'"),
        (LATTICE.replace("pos:R:3", "xyz:R:3"), None, "there is no column 'pos'"),
    ],
)  # fmt: skip
def test_bad_frames_are_named(
    tmp_path: Path, comment: str, atoms: list[str] | None, message: str
) -> None:
    path = write(tmp_path / "a.xyz", comment, atoms)
    assert why(path).startswith(f"{path}, frame 0: ")
    assert re.search(message, why(path)), why(path)


def test_a_required_key_that_is_absent_gets_a_hint(tmp_path: Path) -> None:
    path = write(tmp_path / "a.xyz", LATTICE.replace("forces", "force"))
    rule = FieldRule("forces", "eV/Å", per_atom=True)
    assert "there is no 'forces' for label 'forces'" in why(path, fields={"forces": rule})
    assert "did you mean 'force'" in why(path, fields={"forces": rule})
    assert "no id: none of frame" in why(path, id_keys=["frame"])


def test_frames_after_a_bad_one_are_read(tmp_path: Path) -> None:
    good = write(tmp_path / "a.xyz", LATTICE + " energy=1")
    bad = write(tmp_path / "b.xyz", LATTICE + " energy=NaN")
    path = tmp_path / "c.xyz"
    path.write_text(Path(good).read_text() + Path(bad).read_text() + "\n" + Path(good).read_text())
    items = list(ExtendedXyz(FIELDS).read(str(path)))
    assert [type(item) for item in items] == [CrystalRecord, BadRecord, CrystalRecord]
    assert isinstance(items[1], BadRecord)
    assert items[1].where == f"{path}, frame 1"


def test_a_file_that_ends_inside_a_frame(tmp_path: Path) -> None:
    good = Path(write(tmp_path / "a.xyz", LATTICE)).read_text()
    path = write(tmp_path / "b.xyz", LATTICE, count=3)
    Path(path).write_text(good + Path(path).read_text())
    reader = ExtendedXyz(FIELDS).read(path)
    next(reader)
    with pytest.raises(SourceError, match="ends inside frame 1: it has 2 of its 3 atoms") as caught:
        next(reader)
    assert f"{path} ends" in str(caught.value)
    assert "the last good frame is 0" in str(caught.value)


def test_a_wrong_number_of_atoms_derails_the_file(tmp_path: Path) -> None:
    """The line after the frame is then no count; guessing on would mix up frames."""
    path = write(tmp_path / "a.xyz", LATTICE, count=1)
    reader = ExtendedXyz(FIELDS).read(path)
    next(reader)
    with pytest.raises(SourceError, match=r"frame 1: expected a number of atoms, found 'Cl 2 2.5"):
        next(reader)


def test_a_truncated_gzip_names_the_last_good_frame(tmp_path: Path) -> None:
    frame = Path(write(tmp_path / "a.xyz", LATTICE + " energy=1")).read_text()
    rng = np.random.default_rng(0)  # noise, so that the compressed stream is long
    frames = "".join(frame.replace("energy=1", f"energy={rng.random()}") for _ in range(2000))
    content = gzip.compress(frames.encode())
    path = tmp_path / "b.xyz.gz"
    path.write_bytes(content[: len(content) // 2])
    read: list[Any] = []
    with pytest.raises(SourceError) as caught:
        read.extend(ExtendedXyz(FIELDS).read(str(path)))  # keeps what came before the error
    good = len(read)
    assert all(isinstance(item, CrystalRecord) for item in read)
    assert f"{path} is cut off inside frame {good}" in str(caught.value)
    assert f"the last good frame is {good - 1}" in str(caught.value)
    assert 500 < good < 1500


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.xyz.gz", b"this is no gzip", "cut off or damaged"),
        ("a.xyz", b"\xff\xfe\x00", "not UTF-8"),
        ("a.xyz", b"hello\n", "frame 0: expected a number of atoms, found 'hello'"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=message):
        list(ExtendedXyz(FIELDS).read(str(tmp_path / name)))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"there is no file .*nowhere\.xyz"):
        list(ExtendedXyz(FIELDS).read(str(tmp_path / "nowhere.xyz")))
