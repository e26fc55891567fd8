"""VASP: two files of one calculation agree, with each other, with pymatgen and with ASE."""

from __future__ import annotations

import gzip
import re
import tarfile
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from pymatgen.io.vasp import Vasprun
from vasp_files import Run, made_up, outcar, vasprun

from epitaxy.data.field_rule import FieldRule
from epitaxy.data.sources.contract import BadRecord
from epitaxy.data.sources.vasp import VaspRuns
from epitaxy.errors import RecordError, SourceError
from epitaxy.graph.record import CrystalRecord

FIELDS = {
    "energy": FieldRule("energy", "eV"),
    "energy_sigma0": FieldRule("energy_sigma0", "eV"),
    "forces": FieldRule("forces", "eV/Å", per_atom=True),
    "stress": FieldRule("stress", "kbar", sign="compression_positive", optional=True),
}
WRITERS = {"vasprun.xml": vasprun, "OUTCAR": outcar}


def read(path: Path, **options: Any) -> list[Any]:
    return list(VaspRuns(FIELDS, **options).read(str(path)))


def check(records: list[Any], run: Run, *, digits: float = 1e-5) -> None:
    assert len(records) == len(run.steps)
    for record, step in zip(records, run.steps, strict=True):
        assert isinstance(record, CrystalRecord), record
        assert record.numbers.tolist() == [12, 8, 8]
        assert record.pbc.all()
        np.testing.assert_allclose(record.cell, step.cell, atol=1e-7)
        np.testing.assert_allclose(record.positions, step.positions, atol=digits)
        labels = {name: label.value for name, label in record.labels.items()}
        assert float(labels["energy"]) == pytest.approx(step.free, abs=1e-8)
        assert float(labels["energy_sigma0"]) == pytest.approx(step.zero, abs=1e-8)
        np.testing.assert_allclose(labels["forces"], step.forces, atol=1e-6)
        # compression is positive in VASP; 1602.1766 kbar are 1 eV/Å³
        np.testing.assert_allclose(labels["stress"], -step.stress / 1602.1766208, atol=1e-9)


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_every_ionic_step_is_a_record(tmp_path: Path, name: str, ending: str) -> None:
    run = made_up()
    folder = tmp_path / "MgO2" / "relax"
    folder.mkdir(parents=True)
    content = WRITERS[name](run).encode()
    (folder / f"{name}{ending}").write_bytes(gzip.compress(content) if ending else content)
    records = read(tmp_path)
    check(records, run)
    assert [record.id for record in records] == [f"MgO2/relax-{step}" for step in range(3)]
    assert {record.group for record in records} == {"MgO2/relax"}
    assert [record.id for record in read(folder)] == [f"relax-{step}" for step in range(3)]
    check(read(folder / f"{name}{ending}"), run)
    with tarfile.open(tmp_path / "runs.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "MgO2", "MgO2")
    assert read(tmp_path / "runs.tar.gz") == records


def test_a_compressed_cell_has_a_negative_stress(tmp_path: Path) -> None:
    run = made_up(1).with_step(0, stress=np.eye(3) * 100.0)
    for name, write in WRITERS.items():
        (tmp_path / name).write_text(write(run))
        (record,) = read(tmp_path / name)
        np.testing.assert_allclose(np.diag(record.labels["stress"].value), -100 / 1602.1766208)


def test_pymatgen_reads_the_same(tmp_path: Path) -> None:
    run = made_up()
    (tmp_path / "vasprun.xml").write_text(vasprun(run))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = Vasprun(tmp_path / "vasprun.xml", parse_dos=False, parse_eigen=False).ionic_steps
    for record, step in zip(read(tmp_path), theirs, strict=True):
        np.testing.assert_array_equal(record.positions, step["structure"].cart_coords)
        np.testing.assert_array_equal(record.labels["forces"].value, np.float32(step["forces"]))
        assert float(record.labels["energy"].value) == step["e_fr_energy"]


def test_ase_reads_the_same(tmp_path: Path) -> None:
    """ASE calls the energy at no smearing ``energy`` and turns the sign of the stress itself."""
    run = made_up()
    (tmp_path / "OUTCAR").write_text(outcar(run))
    theirs = ase.io.read(tmp_path / "OUTCAR", index=":", format="vasp-out")
    for record, atoms in zip(read(tmp_path), theirs, strict=True):
        np.testing.assert_array_equal(record.positions, atoms.positions)
        np.testing.assert_array_equal(record.numbers, atoms.numbers)
        np.testing.assert_allclose(record.labels["forces"].value, atoms.get_forces(), rtol=1e-6)
        assert float(record.labels["energy"].value) == atoms.get_potential_energy(True)
        assert float(record.labels["energy_sigma0"].value) == atoms.get_potential_energy()
        np.testing.assert_allclose(
            record.labels["stress"].value, atoms.get_stress(voigt=False), rtol=1e-7
        )


@pytest.mark.parametrize("names", ["VRHFIN", "TITEL", "POTCAR"])
def test_elements_are_named_in_several_places(tmp_path: Path, names: str) -> None:
    run = made_up()
    (tmp_path / "OUTCAR").write_text(outcar(run, names=names))
    check(read(tmp_path), run)


def test_dispersion_is_in_the_energy_of_the_step_only(tmp_path: Path) -> None:
    """The difference of the two energies is that of the last electronic step."""
    run = replace(made_up(), dispersion=-0.75)
    (tmp_path / "vasprun.xml").write_text(vasprun(run))
    check(read(tmp_path), run)


def test_the_run_counts_where_both_are(tmp_path: Path) -> None:
    run, other = made_up(), made_up(2, seed=1)
    (tmp_path / "vasprun.xml").write_text(vasprun(run))
    (tmp_path / "OUTCAR").write_text(outcar(other))
    check(read(tmp_path), run)


def test_several_runs_in_a_folder(tmp_path: Path) -> None:
    for name in ("vasprun.relax1.xml", "vasprun.relax2.xml"):
        (tmp_path / name).write_text(vasprun(made_up(1)))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "OUTCAR.gz").write_bytes(gzip.compress(outcar(made_up(2)).encode()))
    (tmp_path / "OUTCAR_folder").mkdir()
    ids = [record.id for record in read(tmp_path)]
    assert ids == ["b-0", "b-1", "vasprun.relax1.xml-0", "vasprun.relax2.xml-0"]


@pytest.mark.parametrize("name", WRITERS)
def test_electrons_that_did_not_converge(tmp_path: Path, name: str) -> None:
    run = made_up().with_step(1, iterations=60, reached=False)
    (tmp_path / name).write_text(WRITERS[name](run))
    first, bad, last = read(tmp_path)
    assert isinstance(first, CrystalRecord)
    assert isinstance(last, CrystalRecord)
    assert isinstance(bad, BadRecord)
    assert bad.where == f"{tmp_path}: {name}, step 1"
    with pytest.raises(RecordError, match=r"electrons did not converge \(converged_only: false"):
        raise bad.error
    check(read(tmp_path, converged_only=False), run)


def test_electrons_that_converged_in_the_last_step(tmp_path: Path) -> None:
    """The log says so; the run shows as many steps as are allowed, which mostly means not."""
    run = made_up(1).with_step(0, iterations=60, reached=True)
    (tmp_path / "OUTCAR").write_text(outcar(run))
    check(read(tmp_path), run)


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("share", [0.35, 0.5, 0.65, 0.8, 0.9])
def test_a_run_that_was_cut_off_gives_its_complete_steps(
    tmp_path: Path, name: str, share: float
) -> None:
    run = made_up(6)
    content = WRITERS[name](run)
    (tmp_path / name).write_text(content[: int(len(content) * share)])
    *good, bad = read(tmp_path)
    check(good, replace(run, steps=run.steps[: len(good)]))
    assert len(good) < 6
    assert isinstance(bad, BadRecord)
    assert f"cut off or damaged after {len(good)} ionic steps" in str(bad.error)


def test_a_run_that_was_stopped_between_steps_is_complete(tmp_path: Path) -> None:
    run = made_up()
    (tmp_path / "OUTCAR").write_text(outcar(run, done=False))
    check(read(tmp_path), run)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("vasprun.xml", ""), ("vasprun.xml", "<modeling>"), ("vasprun.xml", "no xml"),
        ("vasprun.xml", "<modeling></modeling>"), ("OUTCAR", ""), ("OUTCAR", "no log\n" * 10),
        ("OUTCAR", vasprun(made_up(1))), ("vasprun.xml", outcar(made_up(1))),
        ("OUTCAR", outcar(made_up(1), names="")),
        ("OUTCAR", outcar(made_up(1)).replace("TOTAL-FORCE", "TOTAL")),
        ("OUTCAR", outcar(made_up(1)).replace("direct lattice vectors", "")),
    ],
)  # fmt: skip
def test_other_files_are_named(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "OUTCAR").write_text(outcar(made_up(1)))
    items = read(tmp_path)
    bad = [item for item in items if isinstance(item, BadRecord)]
    assert len(items) == 2
    assert len(bad) == 1
    assert isinstance(bad[0].error, RecordError)
    assert bad[0].where.startswith(f"{tmp_path}: {name}, ")


def test_numbers_that_did_not_fit_their_columns(tmp_path: Path) -> None:
    """Fortran prints stars; and nothing between two numbers that fill their columns."""
    run = made_up(1)
    text = outcar(run.with_step(0, forces=np.full((3, 3), 123456.5)))
    starred = text.replace(" 123456.500000", "**************", 1)
    (tmp_path / "OUTCAR").write_text(starred)
    (bad,) = read(tmp_path)
    assert "holds more than numbers" in str(bad.error)
    wide = run.with_step(0, stress=np.full((3, 3), -12345.67891))
    (tmp_path / "OUTCAR").write_text(outcar(wide))
    assert re.search(r"\d-\d", outcar(wide).partition("in kB")[2][:80])
    check(read(tmp_path), wide)


def test_numbers_of_ions_that_are_none(tmp_path: Path) -> None:
    text = outcar(made_up(1))
    for counts in ("   1   x", "   1   2.5", " 123456789"):
        (tmp_path / "OUTCAR").write_text(re.sub(r"(ions per type = ).*", rf"\g<1>{counts}", text))
        (bad,) = read(tmp_path)
        assert "is not numbers of ions" in str(bad.error)


def test_a_step_without_a_structure_or_an_energy(tmp_path: Path) -> None:
    parts = vasprun(made_up(1)).split(" <calculation>")
    bare = re.sub(r" <structure>.*?</structure>\n", "", parts[1], flags=re.DOTALL)
    (tmp_path / "vasprun.xml").write_text(f"{parts[0]} <calculation>{bare}")
    (bad,) = read(tmp_path)
    assert "an ionic step has no structure" in str(bad.error)
    still = re.sub(r"  <scstep>.*</scstep>\n", "", parts[1], flags=re.DOTALL)
    (tmp_path / "vasprun.xml").write_text(f"{parts[0]} <calculation>{still}")
    (record,) = read(tmp_path)
    assert "energy" in record.labels
    assert "energy_sigma0" not in record.labels  # not the number that VASP gives that name


def test_a_damaged_archive_of_one_run_is_named(tmp_path: Path) -> None:
    (tmp_path / "OUTCAR.gz").write_bytes(gzip.compress(outcar(made_up(3)).encode())[:-400])
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "vasprun.xml.gz").write_bytes(
        gzip.compress(vasprun(made_up(3)).encode())[:-400]
    )
    bad = [item for item in read(tmp_path) if isinstance(item, BadRecord)]
    assert len(bad) == 2
    assert all("cut off or damaged" in str(item.error) for item in bad)


def test_without_a_calculation(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"holds no vasprun\*\.xml\* and no OUTCAR\*"):
        read(tmp_path)
    with pytest.raises(SourceError, match="there is no folder"):
        read(tmp_path / "nowhere")
