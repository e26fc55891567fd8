"""What pickles say, read in a process that imports none of their packages."""

from __future__ import annotations

import ast
import collections
import datetime
import gzip
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from epitaxy.foreign.unpickle import BadValue, read_pickles


def written(folder: Path, *objects: Any, protocol: int | None = None) -> str:
    """Path of a new file of pickles."""
    path = folder / f"{len(list(folder.iterdir()))}.p"
    path.write_bytes(b"".join(pickle.dumps(item, protocol) for item in objects))
    return str(path)


def tree(folder: Path, item: Any, protocol: int | None = None) -> Any:
    """``item`` after its way through a pickle and the reader."""
    ((name, found),) = read_pickles(written(folder, item, protocol=protocol))
    assert name == "0"
    assert not isinstance(found, BadValue), found.error
    return found


def test_mpf_pickle_item_by_item(data_dir: Path) -> None:
    entries = dict(
        read_pickles(str(data_dir / "importers" / "mpf_layout_block_0.p"), select="items")
    )
    assert len(entries) == 62
    assert sum(len(entry["structure"]) for entry in entries.values()) == 71
    for entry in entries.values():
        structures = entry["structure"]
        assert len(structures) == len(entry["energy"]) == len(entry["force"])
        for structure, energy, force, stress in zip(
            structures, entry["energy"], entry["force"], entry["stress"], strict=True
        ):
            assert structure["@type"] == "pymatgen.core.structure.Structure"
            sites = structure["_sites"]
            assert np.shape(force) == (len(sites), 3)
            assert np.shape(stress) == (3, 3)
            assert -15 < energy / len(sites) < 0  # eV per atom of stable crystals
            assert np.abs(np.sum(force, axis=0)).max() < 0.05


def test_mpf_structures_agree_with_pymatgen(data_dir: Path) -> None:
    path = data_dir / "importers" / "mpf_layout_block_0.p"
    with warnings.catch_warnings(), path.open("rb") as stream:
        warnings.simplefilter("ignore")
        wanted = pickle.load(stream)
    for name, entry in read_pickles(str(path), select="items"):
        for structure, crystal in zip(entry["structure"], wanted[name]["structure"], strict=True):
            np.testing.assert_array_equal(structure["_lattice"]["_matrix"], crystal.lattice.matrix)
            fractions = [site["_frac_coords"] for site in structure["_sites"]]
            np.testing.assert_array_equal(fractions, crystal.frac_coords)
            species = [site["_species"]["_data"]["@items"] for site in structure["_sites"]]
            symbols = [kind["@args"][0] for ((kind, amount),) in species if amount == 1]
            assert symbols == [site.specie.symbol for site in crystal]


def test_layout_of_an_old_pymatgen(data_dir: Path) -> None:
    path = data_dir / "importers" / "mpf_layout_block_1_no_pbc.p"
    ((name, entries),) = read_pickles(str(path))
    assert name == "0"
    assert len(entries) == 10
    structures = [item for entry in entries.values() for item in entry["structure"]]
    assert len(structures) == 19
    assert not any("_pbc" in structure["_lattice"] for structure in structures)


def test_current_pymatgen_structure(tmp_path: Path) -> None:
    from pymatgen.core import Lattice, Structure

    cell = Lattice.from_parameters(4, 5, 6, 80, 95, 110)
    crystal = Structure(
        cell,
        ["Na+", {"Cl": 0.75, "Br": 0.25}],
        [[0, 0, 0], [0.5, 0.25, 0.125]],
        site_properties={"magmom": [1.5, -1.5]},
    )
    found = tree(tmp_path, crystal)
    assert found["@type"] == "pymatgen.core.structure.Structure"
    np.testing.assert_array_equal(found["_lattice"]["_matrix"], cell.matrix)
    assert found["_lattice"]["_pbc"] == [True, True, True]
    first, second = found["_sites"]
    assert first["_lattice"] is found["_lattice"]  # shared, not copied for each site
    np.testing.assert_array_equal(second["_frac_coords"], [0.5, 0.25, 0.125])
    assert second["properties"] == {"magmom": -1.5}
    ((ion, amount),) = first["_species"]["_data"]["@items"]
    assert (ion["@type"], ion["_oxi_state"], amount) == (
        "pymatgen.core.periodic_table.Species",
        1,
        1,
    )
    assert ion["_el"]["@args"] == ["Na"]
    mixed = {kind["@args"][0]: part for kind, part in second["_species"]["_data"]["@items"]}
    assert mixed == {"Cl": 0.75, "Br": 0.25}


def test_ase_atoms_with_calculator_and_constraint(tmp_path: Path) -> None:
    from ase.build import bulk
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.constraints import FixAtoms

    atoms = bulk("Cu", cubic=True)
    forces = np.arange(12.0).reshape(4, 3)
    atoms.calc = SinglePointCalculator(atoms, energy=-14.75, forces=forces)
    atoms.set_constraint(FixAtoms([2]))
    atoms.info["source"] = "made up"
    found = tree(tmp_path, [atoms])[0]
    assert found["@type"] == "ase.atoms.Atoms"
    assert found["arrays"]["numbers"].tolist() == [29] * 4
    np.testing.assert_array_equal(found["arrays"]["positions"], atoms.positions)
    np.testing.assert_array_equal(found["_cellobj"]["array"], 3.61 * np.eye(3))
    assert found["_pbc"].tolist() == [True] * 3
    assert found["info"] == {"source": "made up"}
    assert found["_constraints"][0]["index"].tolist() == [2]
    results = found["_calc"]["results"]
    assert results["energy"] == -14.75
    np.testing.assert_array_equal(results["forces"], forces)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # imports torch_geometric
def test_torch_geometric_data(tmp_path: Path) -> None:
    from torch_geometric.data import Batch, Data

    data = Data(
        pos=torch.arange(6.0).reshape(2, 3), edge_index=torch.tensor([[0, 1], [1, 0]]), sid="mp-1"
    )
    data.y_relaxed = -3.5
    new, batch, (same, slices) = tree(
        tmp_path, [data, Batch.from_data_list([data, data]), (data, 1)]
    )
    assert new["@type"] == "torch_geometric.data.data.Data"
    content = new["_store"]["_mapping"]
    np.testing.assert_array_equal(content["pos"], [[0, 1, 2], [3, 4, 5]])
    assert content["edge_index"].dtype == np.int64
    assert (content["sid"], content["y_relaxed"]) == ("mp-1", -3.5)
    assert new["_store"]["_parent"] == {"@cycle": "torch_geometric.data.data.Data"}
    assert (same is new, slices) == (True, 1)
    assert batch["_store"]["_mapping"]["ptr"].tolist() == [0, 2, 4]


def test_torch_geometric_data_of_version_one(tmp_path: Path) -> None:
    # Version 1 kept tensors in Data.__dict__; protocol 2 as Open Catalyst wrote them.
    parts = pickle.dumps({"pos": np.ones((2, 3)), "natoms": 2}, 2)
    raw = b"\x80\x02ctorch_geometric.data.data\nData\n)\x81" + parts[2:-1] + b"b."
    path = tmp_path / "old.p"
    path.write_bytes(raw)
    ((_, found),) = read_pickles(str(path))
    np.testing.assert_array_equal(found.pop("pos"), np.ones((2, 3)))
    assert found == {"@type": "torch_geometric.data.data.Data", "natoms": 2}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol(tmp_path: Path, protocol: int) -> None:
    item = {
        "array": np.arange(6.0).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "big": np.arange(3, dtype=">i4"),
        "objects": np.array([["a", None], [1, 2.5]], dtype=object),
        "scalar": np.float32(0.5),
        "bytes": b"\x00\xff",
        "mutable": bytearray(b"\x01"),
        "set": {3, 1, 2},
        "tensor": torch.tensor([1, 2]),
        "ordered": collections.OrderedDict(a=1),
        "default": collections.defaultdict(list, {"a": [1]}),
        "date": datetime.datetime(2020, 1, 2, 3, 4),
        "complex": 1 + 2j,
    }
    found = tree(tmp_path, item, protocol)
    np.testing.assert_array_equal(found.pop("array"), [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(found.pop("fortran"), [[0, 1, 2], [3, 4, 5]])
    assert found.pop("big").tolist() == [0, 1, 2]
    assert found.pop("tensor").tolist() == [1, 2]
    assert found == {
        "objects": [["a", None], [1, 2.5]],
        "scalar": 0.5,
        "bytes": b"\x00\xff",
        "mutable": b"\x01",
        "set": {"@type": "builtins.set", "@args": [1, 2, 3]},
        "ordered": {"a": 1},
        "default": {"a": [1]},
        "date": "2020-01-02T03:04:00",
        "complex": {"@type": "builtins.complex", "@args": [1.0, 2.0]},
    }


def test_arrays_of_all_kinds(tmp_path: Path) -> None:
    columns = np.array([(1, 2.5), (3, 4.5)], dtype=[("a", "i4"), ("b", "f8")])
    item = [
        np.array(["H", "He"]),
        np.array(7),
        np.zeros((0, 3)),
        np.array([1 + 2j], dtype=np.complex64),
        np.array(["2020-01-01"], dtype="M8[D]"),
        columns,
        np.longdouble(2),
    ]
    symbols, zero, none, complexes, dates, table, long = tree(tmp_path, item)
    assert symbols.tolist() == ["H", "He"]
    assert (zero.shape, int(zero), none.shape) == ((), 7, (0, 3))
    assert complexes.tolist() == [1 + 2j]
    assert dates.astype(str).tolist() == ["2020-01-01"]
    assert (table["a"].tolist(), table["b"].tolist()) == ([1, 3], [2.5, 4.5])
    assert long == 2.0


TENSORS = {
    "view": torch.arange(12.0).reshape(3, 4)[:, 1::2],
    "transposed": torch.arange(6).reshape(2, 3).T,
    "bf16": torch.tensor([1.5, -0.25, 3e38]).to(torch.bfloat16),
    "float16": torch.tensor([0.5]).half(),
    "bool": torch.tensor([True, False]),
    "scalar": torch.tensor(3),
    "empty": torch.zeros(0, 3),
    "expanded": torch.tensor([2.0]).expand(3),
    "uint16": torch.tensor([65535], dtype=torch.uint16),
    "complex": torch.tensor([1 + 2j]),
    "parameter": torch.nn.Parameter(torch.ones(2)),
}


@pytest.mark.parametrize("form", ["pickle", "zip", "legacy"])
def test_tensors_become_arrays(tmp_path: Path, form: str) -> None:
    path = str(tmp_path / "tensors.pt")
    if form == "pickle":
        path = written(tmp_path, TENSORS)
    else:
        torch.save(TENSORS, path, _use_new_zipfile_serialization=form == "zip")
    ((_, found),) = read_pickles(path)
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        wanted = tensor.detach()
        plain = (wanted.float() if wanted.dtype == torch.bfloat16 else wanted).numpy()
        assert (found[name].dtype, found[name].shape) == (plain.dtype, plain.shape), name
        np.testing.assert_array_equal(found[name], plain)
    torch.from_numpy(found["view"])  # warns, and so fails, if the array were read-only


def test_dicts_with_other_keys_and_odd_values(tmp_path: Path) -> None:
    found = tree(tmp_path, [{1: "a"}, {(1, 2): 3}, float("inf"), 10**40, "\ud800é", None, True])
    items = [{"@items": [[1, "a"]]}, {"@items": [[[1, 2], 3]]}]
    assert found == [*items, float("inf"), 10**40, "\ud800é", None, True]


def test_shared_and_circular_objects(tmp_path: Path) -> None:
    inner = [1.0]
    circle: list[Any] = [inner, inner, {"again": inner}]
    circle.append(circle)
    found = tree(tmp_path, circle)
    assert found[0] is found[1] is found[2]["again"]
    assert found[3] == {"@cycle": "builtins.list"}


def test_several_pickles_in_one_file(tmp_path: Path) -> None:
    path = written(tmp_path, [1], {"a": 2}, "three")
    assert list(read_pickles(path)) == [("0", [1]), ("1", {"a": 2}), ("2", "three")]
    path = written(tmp_path, [5, 6], {"a": 7, 8: 9})
    items = list(read_pickles(path, select="items"))
    assert items == [("0", 5), ("1", 6), ("1/a", 7), ("1/8", 9)]


def test_compressed_pickle(tmp_path: Path) -> None:
    path = tmp_path / "x.p.gz"
    path.write_bytes(gzip.compress(pickle.dumps({"a": 1}) + pickle.dumps([2])))
    assert list(read_pickles(str(path))) == [("0", {"a": 1}), ("1", [2])]


def test_own_classes_are_read_without_importing_them(tmp_path: Path) -> None:
    module = tmp_path / "ownmodule.py"
    module.write_text("import os\nos.mkdir('imported')\nclass Thing: pass\n")
    raw = b"\x80\x02cownmodule\nThing\n)\x81}q\x00X\x01\x00\x00\x00xK\x05sb."
    path = tmp_path / "own.p"
    path.write_bytes(raw)
    ((_, bad),) = read_pickles(str(path))
    assert isinstance(bad, BadValue)
    for allow in (["ownmodule.Thing"], ["ownmodule.*"]):
        ((_, found),) = read_pickles(str(path), allow=allow)
        assert found == {"@type": "ownmodule.Thing", "x": 5}
    assert not (tmp_path / "imported").exists()


def test_the_caller_never_unpickles(repository: Path) -> None:
    """The parent's modules import neither pickle nor the child's half."""
    root = repository / "platform" / "epitaxy"
    for name in ("unpickle", "process", "wire", "packages"):
        source = ast.parse((root / "foreign" / f"{name}.py").read_text("utf-8"))
        for node in ast.walk(source):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for imported in names:
                assert imported.split(".")[0] not in ("pickle", "torch", "lmdb"), name
                assert not imported.startswith("epitaxy.foreign.child"), name


@pytest.mark.parametrize(
    "name", ["cgcnn_formation-energy-per-atom.pth.tar", "crystal_twins_barlow.pth"]
)
def test_published_checkpoints_agree_with_torch(data_dir: Path, name: str) -> None:
    path = data_dir / "checkpoints" / name
    ((_, found),) = read_pickles(str(path))
    wanted = torch.load(path, weights_only=True, map_location="cpu")
    found, wanted = found.get("state_dict", found), wanted.get("state_dict", wanted)
    assert found.keys() == wanted.keys()
    for key, tensor in wanted.items():
        np.testing.assert_array_equal(found[key], tensor.numpy())


def test_a_pickled_model_is_refused_by_name(data_dir: Path) -> None:
    path = data_dir / "checkpoints" / "crysxpp_model_pretrain.pth"
    ((_, bad),) = read_pickles(str(path))
    assert "model.CrystalAE" in str(bad.error)
