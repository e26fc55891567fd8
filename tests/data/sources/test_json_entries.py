"""Entries in JSON: other keys, other nesting, other notations, told by the field map alone."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from epitaxy.data.convert import prepare
from epitaxy.data.field_rule import FieldRule
from epitaxy.data.recipe import Recipe
from epitaxy.data.sources.contract import BadRecord
from epitaxy.data.sources.json_entries import JsonEntries
from epitaxy.errors import ConfigError, RecordError, SourceError
from epitaxy.graph.record import CrystalRecord

ATOMS = {
    "lattice_mat": [[4, 0, 0], [0, 4, 0], [0, 0, 4]],
    "coords": [[0, 0, 0], [0.5, 0.5, 0.5]],
    "elements": ["Cs", "Cl"],
    "cartesian": False,
}
FIELDS = {"gap": FieldRule("target", "eV", missing=("na",))}
GOOD = {"jid": 2, "target": 1, "atoms": ATOMS}


def write(path: Path, entries: Any) -> str:
    text = json.dumps(entries).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return str(path)


def read(path: str, fields: dict[str, FieldRule] = FIELDS, **options: Any) -> list[Any]:
    return list(JsonEntries(fields, **options).read(path))


def only(path: str, fields: dict[str, FieldRule] = FIELDS, **options: Any) -> CrystalRecord:
    (record,) = read(path, fields, **options)
    assert isinstance(record, CrystalRecord), record
    return record


@pytest.mark.parametrize("name", ["a.json", "a.json.gz"])
def test_entries_become_records(tmp_path: Path, name: str) -> None:
    entries = [
        {"jid": 7, "target": 1.5, "atoms": ATOMS, "family": "halide"},
        {"jid": "8", "target": None, "atoms": {**ATOMS, "cartesian": True}, "family": 3},
        {"jid": 9, "target": "na", "atoms": ATOMS, "family": "halide"},
    ]
    path = write(tmp_path / name, entries)
    first, second, third = read(path, id="gap-{jid}", group="family")
    assert (first.id, first.group) == ("gap-7", "halide")
    assert (second.id, second.group) == ("gap-8", "3")
    assert float(first.labels["gap"].value) == 1.5
    assert not second.labels
    assert not third.labels
    assert first.positions[1].tolist() == [2, 2, 2]
    assert second.positions[1].tolist() == [0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"jid": 1, "target": float("nan"), "atoms": ATOMS}, "'gap' holds NaN"),
        ({"jid": 1, "target": "x", "atoms": ATOMS}, "not a number"),
        ({"jid": 1, "targt": 1, "atoms": ATOMS}, "no 'target' for label 'gap'.*mean 'targt'"),
        ({"jid": 1, "target": 1}, "names no elements"),
        ({"target": 1, "atoms": ATOMS}, "there is no 'jid' for the id"),
        ({"jid": [1], "target": 1, "atoms": ATOMS}, "'jid' is list, expected a text"),
        ({"jid": 1, "target": 1, "atoms": {**ATOMS, "coords": [[0, 0, 0]]}}, "has shape"),
        ({"jid": 1, "target": 1, "atoms": {**ATOMS, "lattice_mat": []}}, "'cell' has shape"),
        ({"jid": 1, "target": 1, "atoms": None}, "names no elements"),
        ({"jid": 1, "target": 1, "atoms": "cubic"}, "cannot be read"),
        ({"jid": "\ud800", "target": 1, "atoms": ATOMS}, "no Unicode"),
        ("text", "expected a dictionary"),
        (None, "expected a dictionary"),
    ],
)
def test_bad_entries_are_named(tmp_path: Path, entry: Any, message: str) -> None:
    path = write(tmp_path / "a.json", [entry, GOOD])
    bad, good = read(path, id="jid")
    assert isinstance(good, CrystalRecord)
    assert isinstance(bad, BadRecord)
    assert bad.where == f"{path}, entry 0"
    with pytest.raises(RecordError, match=message):
        raise bad.error


def test_entries_in_an_object_are_named_by_their_keys(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", {"mp-1": GOOD, "mp-2\ud800": {"target": 1}})
    good, bad = read(path, id="key")
    assert good.id == "mp-1"
    assert bad.where == f"{path}, entry 1 (mp-2\\ud800)"


def test_an_object_of_objects(tmp_path: Path) -> None:
    """MPtrj: material → frame."""
    path = write(tmp_path / "a.json", {"mp-1": {"f0": GOOD, "f1": GOOD}, "mp-2": {"f0": GOOD}})
    records = read(path, levels=2, id="{key0}/{key}", group="key0")
    assert [record.id for record in records] == ["mp-1/f0", "mp-1/f1", "mp-2/f0"]
    assert [record.group for record in records] == ["mp-1", "mp-1", "mp-2"]
    (bad,) = [item for item in read(path) if isinstance(item, BadRecord)][:1]
    assert "names no elements" in str(bad.error)  # one level too few


def test_one_entry_per_file(tmp_path: Path) -> None:
    path = write(tmp_path / "NaCl.json", GOOD)
    assert only(path, levels=0).id == "NaCl-0"
    assert only(path, levels=0, id="file").id == "NaCl"


def test_a_container_beside_other_things(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", {"meta": {"n": 1}, "response": {"data": [GOOD]}})
    assert only(path, under="response.data", id="jid").id == "2"
    with pytest.raises(SourceError, match=r"no 'data' to look under; there is meta, response"):
        read(path, under="data")


def test_one_entry_per_line(tmp_path: Path) -> None:
    text = json.dumps(GOOD) + "\n{broken}\n" + json.dumps({**GOOD, "jid": 3}) + "\n"
    for name, options in (("a.jsonl", {}), ("a.ndjson", {}), ("a.json", {"lines": True})):
        (tmp_path / name).write_text(text)
        first, bad, last = read(str(tmp_path / name), id="jid", **options)
        assert (first.id, last.id) == ("2", "3")
        assert bad.where == f"{tmp_path / name}, entry 1"
        assert "the line is no JSON" in str(bad.error)
    with pytest.raises(SourceError, match="one entry per line"):
        read(write(tmp_path / "b.json", GOOD) and str(tmp_path / "a.json"))
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    assert len(read(str(tmp_path / "c.jsonl.gz"))) == 3


def test_arguments_that_make_no_sense() -> None:
    for options, message in (
        ({"levels": -1}, "levels must be at least 0"),
        ({"lines": True, "under": "data"}, "no container to look under"),
        ({"notation": "cfi"}, "unknown notation 'cfi'; did you mean 'cif'"),
        ({"arrays": {"postions": "x"}}, "unknown name 'postions'; did you mean 'positions'"),
        ({"composition": "a", "structure": "b"}, "a composition or a structure, not both"),
    ):
        with pytest.raises(ConfigError, match=message):
            JsonEntries(FIELDS, **options)  # type: ignore[arg-type]


FRAME = {
    "structure": {
        "lattice": {"matrix": ATOMS["lattice_mat"]},
        "sites": [
            {"species": [{"element": s, "occu": 1}], "abc": abc, "properties": {"magmom": m}}
            for s, abc, m in (("Cs", [0, 0, 0], 0.5), ("Cl", [0.5, 0.5, 0.5], -0.5))
        ],
    },
    "energy": [-6.0],
    "forces": [0.1, 0.2, 0.3, -0.1, -0.2, -0.3],
    "stress": [10, 4, 6, 4, 20, 5, 6, 5, 30],
}
FRAME_FIELDS = {
    "energy": FieldRule("energy", "eV"),
    "forces": FieldRule("forces", "eV/Å", per_atom=True),
    "stress": FieldRule("stress", "kbar", sign="compression_positive"),
}


def moved(**moves: str) -> tuple[dict[str, Any], dict[str, FieldRule]]:
    """The same frame with labels under other, dotted keys, and the fields that find them."""
    entry: dict[str, Any] = {"structure": FRAME["structure"]}
    fields = {}
    for name, rule in FRAME_FIELDS.items():
        path = moves.get(name, name)
        inner = entry
        *heads, last = path.split(".")
        for head in heads:
            inner = inner.setdefault(head, {})
        inner[last] = FRAME[name]
        fields[name] = FieldRule(path, rule.unit, per_atom=rule.per_atom, sign=rule.sign)
    return entry, fields


@pytest.mark.parametrize(
    "moves",
    [
        {},
        {"energy": "E", "forces": "F", "stress": "virial"},
        {"energy": "outputs.energy", "forces": "outputs.forces", "stress": "outputs.stress"},
        {"energy": "calc.result.energy_total", "forces": "calc.forces", "stress": "calc.s"},
    ],
)
def test_labels_stand_anywhere(tmp_path: Path, moves: dict[str, str]) -> None:
    entry, fields = moved(**moves)
    record = only(write(tmp_path / "a.json", [entry]), fields)
    assert float(record.labels["energy"].value) == -6
    np.testing.assert_allclose(record.labels["forces"].value[1], [-0.1, -0.2, -0.3], rtol=1e-6)
    kbar = [[-10, -4, -6], [-4, -20, -5], [-6, -5, -30]]
    np.testing.assert_allclose(
        record.labels["stress"].value, np.array(kbar) / 1602.1766208, rtol=1e-12
    )


def test_values_of_sites_are_collected(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", [FRAME])
    rule = FieldRule("structure.sites.*.properties.magmom", "muB", per_atom=True)
    assert only(path, {"magmom": rule}).labels["magmom"].value.tolist() == [0.5, -0.5]
    sites = [{**site, "properties": {"magmom": None}} for site in FRAME["structure"]["sites"]]
    path = write(tmp_path / "b.json", [{"structure": {**FRAME["structure"], "sites": sites}}])
    assert not only(path, {"magmom": rule}).labels


STRUCTURES = [
    {"structure": FRAME["structure"]},
    {"structure": json.dumps(FRAME["structure"])},
    {"atoms": ATOMS},
    {"final_structure": FRAME["structure"], "atoms": None},
    {"crystal": {"numbers": [55, 17], "positions": [0, 0, 0, 2, 2, 2], "cell": [4, 4, 4]}},
    {"numbers": [55, 17], "positions": [[0, 0, 0], [2, 2, 2]], "cell": [4, 4, 4, 90, 90, 90]},
    {"atoms": ["Cs", "Cl"], "frac_coords": ATOMS["coords"], "lattice": [ATOMS["lattice_mat"]]},
    {"cif": "data_x\n_cell_length_a 4\n_cell_length_b 4\n_cell_length_c 4\n_cell_angle_alpha 90\n"
            "_cell_angle_beta 90\n_cell_angle_gamma 90\nloop_\n_atom_site_label\n"
            "_atom_site_fract_x\n_atom_site_fract_y\n_atom_site_fract_z\nCs 0 0 0\nCl .5 .5 .5\n"},
    {"poscar": "x\n1\n4 0 0\n0 4 0\n0 0 4\nCs Cl\n1 1\nDirect\n0 0 0\n0.5 0.5 0.5\n"},
    dict(FRAME["structure"]),
]  # fmt: skip


@pytest.mark.parametrize("entry", STRUCTURES)
def test_structures_in_every_notation(tmp_path: Path, entry: dict[str, Any]) -> None:
    record = only(write(tmp_path / "a.json", [entry]), {})
    assert record.numbers.tolist() == [55, 17]
    np.testing.assert_allclose(record.positions, [[0, 0, 0], [2, 2, 2]], atol=1e-12)
    np.testing.assert_allclose(record.cell, np.eye(3) * 4, atol=1e-12)
    assert record.pbc.all()


def test_structures_stand_anywhere(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", [{"calcs": [{"out": {"s": FRAME["structure"]}}], "atoms": 2}])
    assert only(path, {}, structure="calcs.-1.out.s").num_atoms == 2
    (bad,) = read(path, {}, structure="calcs.-1.in")
    assert "the entry has no 'calcs.-1.in', only calcs, atoms" in str(bad.error)
    data = {"attributes": {"kinds": ["Cs", "Cl"], "xyz_frac": ATOMS["coords"], "h": [4, 4, 4]}}
    arrays = {
        "elements": "attributes.kinds", "fractional": "attributes.xyz_frac", "cell": "attributes.h",
    }  # fmt: skip
    assert (
        only(write(tmp_path / "b.json", [data]), {}, arrays=arrays).positions[1].tolist() == [2] * 3
    )


def test_compositions(tmp_path: Path) -> None:
    entries = [
        {"formula": "Fe0.5Ni1.5", "target": 3}, {"formula": {"Ni": 1.5, "Fe3+": 0.5}, "target": 3},
        {"formula": {"Fe": -1}}, {"formula": {"Fe": None}}, {"formula": {"Fe": 0}}, {"formula": 5},
        {"formula": {"Xx": 1}}, {"formula": {}}, {"formula": None},
    ]  # fmt: skip
    first, second, *bad = read(write(tmp_path / "a.json", entries), composition="formula")
    for record in (first, second):
        assert record.is_composition
        assert record.numbers.tolist() == [26, 28]
        assert record.labels["amount"].value.tolist() == [0.5, 1.5]
        assert float(record.labels["gap"].value) == 3
    assert all(isinstance(item, BadRecord) for item in bad)
    assert len(bad) == 7
    assert "amounts of a composition are {'Fe': -1}" in str(bad[0].error)
    (no_size,) = read(
        write(tmp_path / "b.json", entries[:1]),
        {"energy": FieldRule("target", "eV/atom")},
        composition="formula",
    )
    assert "needs the crystal it belongs to" in str(no_size.error)  # two elements are no two atoms


def test_a_truncated_gzip_counts_the_good_entries(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    entries = [{"jid": i, "target": rng.random(), "atoms": ATOMS} for i in range(3000)]
    path = tmp_path / "a.json.gz"
    write(path, entries)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(SourceError, match=r"a\.json\.gz is cut off after \d+ entries"):
        read(str(path))


def test_a_trajectory_that_repeats_its_id_is_noticed(data_dir: Path, tmp_path: Path) -> None:
    """Fifty frames of three relaxations, with three different ids."""
    recipe = Recipe.from_dict(
        {
            "source": {"_target_": "epitaxy.data.sources.json_entries.JsonEntries", "id": "jid"},
            "fields": {"energy": {"key": "total_energy", "unit": "eV"}},
        },
        "frames",
    )
    source = data_dir / "importers" / "alignn_ff_id_prop.json"
    with pytest.raises(RecordError, match=r"id '15607' occurs twice: first in .* record 0, again"):
        prepare(source, tmp_path / "out", recipe=recipe)
    manifest = prepare(source, tmp_path / "out", recipe=recipe, on_error="skip")
    assert (manifest.num_records, manifest.skipped.count) == (3, 47)
