"""Recipes of data sets in their original distributions, on small files of the same make."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import ase
import ase.db
import ase.io
import pytest

from epitaxy.data.convert import prepare
from epitaxy.data.dataset import Dataset
from epitaxy.data.recipe import Recipe, load_recipe
from epitaxy.data.sources.contract import BadRecord
from epitaxy.errors import RecordError
from epitaxy.graph.record import CrystalRecord

LATTICE = {"matrix": [[4.0, 0, 0], [0, 4.0, 0], [0, 0, 4.0]]}
SITES = [
    {"species": [{"element": "Cs", "occu": 1}], "abc": [0, 0, 0]},
    {"species": [{"element": "Cl", "occu": 1}], "abc": [0.5, 0.5, 0.5]},
]
STRUCTURE = {"@class": "Structure", "lattice": LATTICE, "sites": SITES}
JARVIS = {
    "lattice_mat": LATTICE["matrix"],
    "coords": [[0, 0, 0], [0.5, 0.5, 0.5]],
    "elements": ["Cs", "Cl"],
    "cartesian": False,
}


def only_record(name: str, path: Path) -> CrystalRecord:
    (record,) = load_recipe(name).open_source().read(str(path))
    assert isinstance(record, CrystalRecord), record
    return record


def value(record: CrystalRecord, label: str) -> float:
    return float(record.labels[label].value)


MATBENCH = {
    "jdft2d": ("exfoliation_en", "mb-jdft2d-008"),
    "phonons": ("last phdos peak", "mb-phonons-0008"),
    "dielectric": ("n", "mb-dielectric-0008"),
    "log_gvrh": ("log10(G_VRH)", "mb-log-gvrh-00008"),
    "log_kvrh": ("log10(K_VRH)", "mb-log-kvrh-00008"),
    "perovskites": ("e_form", "mb-perovskites-00008"),
    "mp_gap": ("gap pbe", "mb-mp-gap-000008"),
    "mp_is_metal": ("is_metal", "mb-mp-is-metal-000008"),
    "mp_e_form": ("e_form", "mb-mp-e-form-000008"),
    "expt_gap": ("gap expt", "mb-expt-gap-0008"),
    "expt_is_metal": ("is_metal", "mb-expt-is-metal-0008"),
    "glass": ("gfa", "mb-glass-0008"),
    "steels": ("yield strength", "mb-steels-008"),
}


@pytest.mark.parametrize("task", sorted(MATBENCH))
def test_tasks_of_matbench_have_their_columns_and_ids(tmp_path: Path, task: str) -> None:
    column, identity = MATBENCH[task]
    recipe = load_recipe(f"matbench_{task}")
    composition = task in ("expt_gap", "expt_is_metal", "glass", "steels")
    head, first = ("composition", "CsCl") if composition else ("structure", STRUCTURE)
    target = True if "metal" in task or task == "glass" else 2.5
    path = tmp_path / f"matbench_{task}.json"
    table = {"index": [7], "columns": [head, column], "data": [[first, target]]}
    path.write_text(json.dumps(table))
    record = only_record(recipe.name, path)
    assert record.id == identity
    assert record.is_composition == composition
    for label, rule in recipe.fields.items():
        assert value(record, label) == pytest.approx(float(target) * rule.multiply)
    assert recipe.size == {
        "jdft2d": 636, "phonons": 1265, "dielectric": 4764, "log_gvrh": 10987, "log_kvrh": 10987,
        "perovskites": 18928, "mp_gap": 106113, "mp_is_metal": 106113, "mp_e_form": 132752,
        "expt_gap": 4604, "expt_is_metal": 4921, "glass": 5680, "steels": 312,
    }[task]  # fmt: skip


def test_jarvis_leaves_na_out(tmp_path: Path) -> None:
    keys = {rule.key for rule in load_recipe("jarvis_dft_3d").fields.values()}
    entry: dict[str, Any] = dict.fromkeys(keys, "na")
    entry |= {"jid": "JVASP-1", "atoms": JARVIS, "bulk_modulus_kv": 17.5, "slme": "na"}
    entry["formation_energy_peratom"] = -2.1
    path = tmp_path / "jdft_3d-8-18-2021.json.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("jdft_3d-8-18-2021.json", json.dumps([entry]))
    record = only_record("jarvis_dft_3d", path)
    assert set(record.labels) == {"formation_energy_per_atom", "bulk_modulus"}
    assert record.labels["bulk_modulus"].unit == "GPa"
    assert len(load_recipe("jarvis_dft_3d").fields) == 9


def test_layer_transfer_leaves_out_what_is_heavier_than_mercury(tmp_path: Path) -> None:
    heavy = {**JARVIS, "elements": ["Pb", "Cl"]}
    labels = {"_oqmd_delta_e": -1.0, "_oqmd_band_gap": 0.0, "_oqmd_stability": float("nan")}
    entries = [
        {"_oqmd_entry_id": number, "atoms": atoms, **labels}
        for number, atoms in enumerate((JARVIS, heavy, {**JARVIS, "elements": ["Hg", "Cl"]}))
    ]
    (tmp_path / "all_oqmd.json").write_text(json.dumps(entries))
    recipe = load_recipe("oqmd_layer_transfer")
    manifest = prepare(tmp_path / "all_oqmd.json", tmp_path / "out", recipe=recipe, progress=False)
    assert sum(manifest.filtered.values()) == 1
    assert sorted(Dataset.open(tmp_path / "out").ids) == ["oqmd-0", "oqmd-2"]
    assert "energy_above_hull" not in {field.name for field in manifest.fields}


def test_megnet_has_its_structures_as_cif(tmp_path: Path) -> None:
    cif = (
        "data_CsCl\n_cell_length_a 4.0\n_cell_length_b 4.0\n_cell_length_c 4.0\n"
        "_cell_angle_alpha 90\n_cell_angle_beta 90\n_cell_angle_gamma 90\n"
        "_symmetry_space_group_name_H-M 'P 1'\nloop_\n_atom_site_type_symbol\n"
        "_atom_site_label\n_atom_site_fract_x\n_atom_site_fract_y\n_atom_site_fract_z\n"
        "_atom_site_occupancy\nCs Cs0 0 0 0 1\nCl Cl1 0.5 0.5 0.5 1\n"
    )
    entry = {"material_id": "mp-22865", "structure": cif, "formation_energy_per_atom": -2.3}
    path = tmp_path / "mp.2018.6.1.json"
    path.write_text(json.dumps([{**entry, "band_gap": 5.4, "graph": {"bond": []}}]))
    record = only_record("mp_megnet", path)
    assert (record.id, record.num_atoms) == ("mp-22865", 2)
    assert (value(record, "formation_energy_per_atom"), value(record, "band_gap")) == (-2.3, 5.4)


def test_folders_of_matdeeplearn_keep_their_boundaries(tmp_path: Path) -> None:
    slab = ase.Atoms("MoS2", positions=[[0, 0, 5], [1, 1, 4], [1, 1, 6]], cell=[3, 3, 20])
    slab.pbc = (True, True, False)
    ase.io.write(tmp_path / "0.json", slab)
    (tmp_path / "targets.csv").write_text("0,5.07\n")
    record = only_record("c2db_work_function", tmp_path)
    assert (record.id, record.pbc.tolist()) == ("c2db-0", [True, True, False])
    assert value(record, "work_function") == pytest.approx(5.07)


def test_rows_of_c2db_without_a_work_function_are_counted_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "c2db.db"
    with ase.db.connect(path) as database:
        for work in (4.2, None):
            pairs = {"gap": 1.7} if work is None else {"gap": 1.7, "workfunction": work}
            atoms = ase.Atoms("BN", positions=[[0, 0, 5], [1.4, 0, 5]], cell=[2.5, 4, 15], pbc=True)
            database.write(atoms, **pairs)
    recipe = Recipe.from_dict({**load_recipe("c2db").to_dict(), "splits": {}})
    manifest = prepare(path, tmp_path / "out", recipe=recipe, progress=False)
    assert (manifest.num_records, dict(manifest.filtered)) == (1, {"no work_function": 1})


def test_an_element_without_a_known_order_is_refused(tmp_path: Path) -> None:
    lithium = {**STRUCTURE, "sites": [{"species": [{"element": "Li", "occu": 1}], "abc": [0] * 3}]}
    outputs = {"energy": -1.9, "forces": [[0, 0, 0]], "virial_stress": [1, 2, 3, 4, 5, 6]}
    entry = {"structure": lithium, "outputs": outputs, "element": "Li", "group": "Elastic"}
    path = tmp_path / "Li.json"
    path.write_text(json.dumps([entry]))
    (record,) = load_recipe("mlearn").open_source().read(str(path))
    assert isinstance(record, BadRecord)
    assert isinstance(record.error, RecordError)
    assert "Li" in str(record.error)
