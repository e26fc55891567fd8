"""The project's recipes on the files they were written for, and on small ones of the same make."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from epitaxy.data.parse import Sieve
from epitaxy.data.recipe import list_recipes, load_recipe
from epitaxy.data.sources.contract import BadRecord, PieceSource, parse_piece
from epitaxy.data.validate import check_record, closest_pair
from epitaxy.graph.record import CrystalRecord

RECIPES = {name: load_recipe(name) for name in list_recipes()}
CHECKED = [(name, file) for name, recipe in RECIPES.items() for file in recipe.files]
OWN = "that of your data"
PHYSICAL = ("energy", "forces", "stress")


def stored(data_dir: Path, file: str) -> Path:
    found = list(data_dir.rglob(file))
    if not found:
        pytest.skip(f"{file} is not among the real data sets")
    return found[0]


def records(name: str, path: Path, stop: int | None = None) -> Iterator[CrystalRecord]:
    source = RECIPES[name].open_source()
    assert isinstance(source, PieceSource)
    for piece in islice(source.pieces(str(path)), stop):
        record = parse_piece(source, piece)
        assert not isinstance(record, BadRecord), record
        yield record


def value(record: CrystalRecord, label: str) -> float:
    return float(record.labels[label].value)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_recipe_says_what_its_user_must_know(name: str) -> None:
    recipe = RECIPES[name]
    assert recipe.notes
    Sieve.from_dict(recipe.filter)
    if recipe.licence == OWN:
        assert not recipe.files
        return
    assert recipe.citation
    assert recipe.url or "emt" in name
    for label, rule in recipe.fields.items():
        assert rule.scheme or label in ("gap_is_direct", "year"), label
        assert rule.unit or label not in PHYSICAL


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_stored_splits_are_well_formed(name: str) -> None:
    for split, settings in RECIPES[name].splits.items():
        assert set(settings) <= {"by", "fractions", "seed", "time"}, split
        assert settings["by"] in ("record", "group", "formula", "chemical_system", "time")
        assert (settings["by"] == "time") == ("time" in settings)
        assert settings.get("time") in (None, *RECIPES[name].fields)
        assert len(settings["fractions"]) == 3
        assert sum(settings["fractions"]) == pytest.approx(1)


@pytest.mark.parametrize(("name", "file"), CHECKED)
def test_a_file_is_the_one_that_was_checked(data_dir: Path, name: str, file: str) -> None:
    path = stored(data_dir, file)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == RECIPES[name].files[file]["sha256"]
    (record,) = records(name, path, 1)
    check_record(record)
    expected = {key for key, rule in RECIPES[name].fields.items() if not rule.optional}
    if name != "mp_crysxpp":  # its first row is one of the 221 without MEGNet's labels
        assert expected <= set(record.labels)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "file"), CHECKED)
def test_a_file_has_the_records_it_is_said_to_have(data_dir: Path, name: str, file: str) -> None:
    source = RECIPES[name].open_source()
    assert isinstance(source, PieceSource)
    count = sum(1 for _ in source.pieces(str(stored(data_dir, file))))
    assert count == RECIPES[name].files[file]["records"]


def test_every_file_of_the_data_folder_has_a_recipe(data_dir: Path) -> None:
    no_data_sets = {"README.md", "trial_ids.json.gz", "crystal_twins_barlow_config.yaml"}
    known = {file for recipe in RECIPES.values() for file in recipe.files} | no_data_sets
    left = [
        path.name
        for path in data_dir.rglob("*")
        if path.is_file()
        and path.name not in known
        and path.parent.name not in ("cgcnn_sample_regression", "checkpoints")
    ]
    assert left == []


@pytest.mark.parametrize(
    ("name", "count", "total"), [("cgcnn_folder", 10, 55), ("cgcnn_classification", 10, 5)]
)
def test_the_sample_of_cgcnn_is_read_both_ways(
    data_dir: Path, name: str, count: int, total: float
) -> None:
    folder = data_dir / "importers" / "cgcnn_sample_regression"
    targets = [value(record, "target") for record in records(name, folder)]
    assert (len(targets), sum(targets)) == (count, total)


@pytest.mark.parametrize(
    ("label", "names"),
    [
        (
            "formation_energy_per_atom",
            ("mp_crysxpp", "mp_megnet", "mp_20", "mpts_52", "matbench_mp_e_form",
             "jarvis_dft_3d", "oqmd", "perov_5", "perov_5_train"),
        ),
        ("band_gap", ("mp_crysxpp", "jarvis_dft_3d", "expt_gap", "oqmd", "perov_5", "c2db")),
        ("energy", ("mattersim", "mlearn", "maml", "alignn_ff", "carbon_lda", "asedb_oxides",
                    "matdeeplearn_pt")),
        ("is_metal", ("matbench_mp_is_metal", "matbench_expt_is_metal")),
    ],
)  # fmt: skip
def test_labels_that_must_not_be_mixed_differ_in_scheme(label: str, names: tuple[str, ...]) -> None:
    schemes = [RECIPES[name].fields[label].scheme for name in names]
    assert len(set(schemes)) == len(names)


def test_the_same_numbers_have_the_same_scheme_everywhere() -> None:
    for names, label in [
        (("mattersim", "mptrj", "asedb_mptrj", "asedb_mptrj_plain"), "energy"),
        (("mlearn", "mlearn_jarvis", "mlearn_alignn_ff"), "energy"),
        (("phonons", "transfer_phonons", "matbench_phonons"), "last_phonon_peak"),
        (("mp_csv", "mp_crysxpp", "crysxpp_folder"), "formation_energy_per_atom"),
        (("mp_megnet", "jarvis_megnet"), "formation_energy_per_atom"),
    ]:
        assert len({RECIPES[name].fields[label].scheme for name in names}) == 1, names
    megnet = RECIPES["mp_crysxpp"].fields["formation_energy_per_atom_megnet"]
    assert megnet.scheme == RECIPES["mp_megnet"].fields["formation_energy_per_atom"].scheme


@pytest.mark.parametrize(
    ("raw", "scaled", "label", "file"),
    [
        ("phonons", "transfer_phonons", "last_phonon_peak", "ph_train.json.gz"),
        ("shear_modulus", "transfer_shear_modulus", "log10_shear_modulus", "gv_train.json.gz"),
        ("matbench_band_gap", "transfer_band_gap", "band_gap", "bg_train.json.gz"),
        (
            "matbench_formation_energy",
            "transfer_formation_energy",
            "formation_energy_per_atom",
            "fe_train.json.gz",
        ),
    ],
)
def test_undoing_the_published_scaling_gives_the_raw_target(
    data_dir: Path, raw: str, scaled: str, label: str, file: str
) -> None:
    path = stored(data_dir, file)
    kept = {record.id: value(record, label) for record in records(raw, path, 200)}
    undone = {record.id: value(record, label) for record in records(scaled, path, 200)}
    assert kept.keys() == undone.keys()
    assert len({round(number, 6) for number in kept.values()}) > 50
    for name, number in kept.items():
        assert undone[name] == pytest.approx(number, abs=1e-9)


def test_perovskites_are_per_cell_of_five_atoms(data_dir: Path) -> None:
    first = next(records("perov_5_train", stored(data_dir, "train_rebuilt.csv.gz")))
    assert first.id == "perov5-17277"  # RhTeN3, 2.16 eV per cell in the table
    assert first.num_atoms == 5
    assert value(first, "formation_energy_per_cell") == pytest.approx(2.16)
    assert value(first, "formation_energy_per_atom") == pytest.approx(0.432)
    first = next(records("perov_5", data_dir / "perov_5" / "val.csv.gz"))
    assert value(first, "formation_energy_per_atom") == pytest.approx(2.76 / 5)


@pytest.mark.parametrize("element", ["Si", "Mo"])
def test_shear_stress_of_mlearn_answers_shear_strain(data_dir: Path, element: str) -> None:
    """In cubic crystals each shear strain has its own stress: same component, same sign."""
    pairs = [(0, 1), (0, 2), (1, 2)]
    seen = set()
    found = 0
    for record in records("mlearn", stored(data_dir, f"{element}_training.json.gz")):
        if record.group != f"{element}-Elastic":
            continue
        cell = record.cell / np.cbrt(abs(np.linalg.det(record.cell)))
        strain = np.array([cell[i, j] + cell[j, i] for i, j in pairs])
        if np.abs(strain).max() < 0.005:
            continue
        stress = np.array([record.labels["stress"].value[i, j] for i, j in pairs])
        component = int(np.abs(strain).argmax())
        assert component == int(np.abs(stress).argmax())
        assert strain[component] * stress[component] > 0
        seen.add(component)
        found += 1
    assert seen == {0, 1, 2}
    assert found >= 20


def test_carbon_pulls_when_stretched_and_pushes_when_compressed(data_dir: Path) -> None:
    rows = []
    for record in records("carbon_lda", stored(data_dir, "extxyz_variant_carbon_100.xyz.gz")):
        volume = abs(np.linalg.det(record.cell)) / record.num_atoms
        rows.append((volume, np.trace(record.labels["stress"].value) / 3))
    volumes, means = np.array(rows).T
    assert np.all(means[volumes < 8] < 0)  # graphite rests at 8.6 Å^3 per atom in LDA
    assert np.all(means[volumes > 8.9] > 0)
    assert np.corrcoef(volumes, means)[0, 1] > 0.8


def test_one_frame_of_mptrj_is_the_same_from_json_and_from_ase(data_dir: Path) -> None:
    """Kilobar with VASP's sign on one side, eV/Å^3 with ASE's on the other."""
    vasp = {r.id: r for r in records("mptrj", stored(data_dir, "mptrj_layout.json"))}
    path = stored(data_dir, "asedb_mptraj_with_keys.db")
    theirs = {r.id: r for r in records("asedb_mptrj", path)}
    assert vasp.keys() == theirs.keys()
    assert {r.group for r in vasp.values()} == {"mp-1205402", "mp-1020019"}
    for name, frame in vasp.items():
        other = theirs[name]
        assert frame.group == other.group
        assert value(frame, "energy") == pytest.approx(value(other, "energy"), abs=1e-9)
        assert value(frame, "corrected_energy") == value(other, "corrected_energy")
        for label, tolerance in (("forces", 1e-6), ("stress", 1e-6)):
            ours, known = frame.labels[label].value, other.labels[label].value
            np.testing.assert_allclose(ours, known, atol=tolerance, rtol=1e-4)
    assert np.abs(vasp["mp-1095441-1-7"].labels["stress"].value).max() > 0.01
    assert "magnetic_moments" in vasp["mp-1393488-0-0"].labels
    assert "magnetic_moments" not in vasp["mp-1095441-0-1"].labels  # null in the file


def test_blocks_of_mpf_hold_the_frames_of_mptrj(data_dir: Path) -> None:
    json_frames = list(records("mptrj", stored(data_dir, "mptrj_layout.json")))
    path = stored(data_dir, "mpf_layout_block_0.p")
    frames = {(r.group, round(value(r, "energy"), 6)): r for r in records("mpf", path)}
    for known in json_frames:
        frame = frames[known.group, round(value(known, "energy"), 6)]
        np.testing.assert_allclose(frame.positions, known.positions, atol=1e-6)
        for label in ("forces", "stress"):
            np.testing.assert_allclose(frame.labels[label].value, known.labels[label].value)
    last = {r.id: r for r in records("mpf_relaxed", path)}
    assert len(last) == 62
    relaxed = [r for r in records("mpf", path) if r.group == "mp-1020019"][-1]
    assert value(last["mp-1020019"], "energy") == value(relaxed, "energy")


def test_oqmd_calls_fractional_coordinates_cartesian(data_dir: Path) -> None:
    """Read as Cartesian, half of the cells would have atoms 0.4 Å apart."""
    found = list(records("lmdb_oqmd", stored(data_dir, "lmdb_oqmd.lmdb.gz")))
    assert min(closest_pair(record)[2] for record in found) > 1
    assert found[0].num_atoms == 8
    site = found[0].positions[0] @ np.linalg.inv(found[0].cell)
    np.testing.assert_allclose(site, [0.75, 0.25, 0.5], atol=1e-9)  # "Mn @ 0.75 0.25 0.5"


def test_energies_per_atom_and_total_agree(data_dir: Path) -> None:
    total = next(records("mlearn", stored(data_dir, "Si_training.json.gz")))
    path = stored(data_dir, "alignn_ff_mlearn_Si_id_prop.json.gz")
    per_atom = next(records("mlearn_alignn_ff", path))
    assert value(total, "energy") == pytest.approx(-295.49753016, abs=1e-6)
    assert value(per_atom, "energy") == pytest.approx(value(total, "energy"), abs=1e-6)
    np.testing.assert_allclose(
        per_atom.labels["stress"].value, total.labels["stress"].value, atol=1e-9
    )


@pytest.mark.parametrize("name", ["cif_folder", "crystal_twins"])
def test_structures_without_labels_are_read(data_dir: Path, name: str) -> None:
    found = list(records(name, data_dir / "importers" / "cgcnn_sample_regression"))
    assert len(found) == 10
    assert {record.id for record in found} >= {"1000041", "9012304"}
    assert all(not record.labels for record in found)


def test_the_page_on_data_sets_lists_every_recipe(repository: Path) -> None:
    page = (repository / "docs" / "data_sets.md").read_text(encoding="utf-8")
    listed = [line.split("`")[1] for line in page.splitlines() if line.startswith("| `")]
    assert sorted(listed) == sorted(RECIPES)
