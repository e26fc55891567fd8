"""Whatever a file holds, a source says what is wrong with it and never falls over.

Real entries are changed at random: keys go, values become others, and texts are cut and garbled.
Every outcome is a record, or an error of ours; warnings are errors in tests, so none comes either.
"""

from __future__ import annotations

import contextlib
import copy
import csv
import gzip
import io
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vasp_files import made_up, outcar, vasprun

from epitaxy.data.field_rule import FieldRule
from epitaxy.data.sources.ase_db import AseDb
from epitaxy.data.sources.contract import BadRecord, Piece, PieceSource, parse_piece
from epitaxy.data.sources.csv_table import CsvTable
from epitaxy.data.sources.extxyz import ExtendedXyz
from epitaxy.data.sources.json_entries import JsonEntries
from epitaxy.data.sources.matbench_json import MatbenchJson
from epitaxy.data.sources.structure_folder import StructureFolder
from epitaxy.data.sources.structures import parse_structure
from epitaxy.data.sources.vasp import VaspRuns
from epitaxy.errors import EpitaxyError
from epitaxy.graph.record import CrystalRecord

FUZZ = settings(
    deadline=None,
    derandomize=True,
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
SIGN: Any = "compression_positive"
ORDER = "xx,yy,zz,xy,yz,xz"
FRAME_FIELDS = {
    "energy": FieldRule("energy", "eV/atom", optional=True, missing=("na", -1)),
    "forces": FieldRule("forces", "eV/Å", per_atom=True, optional=True),
    "stress": FieldRule("stress", "kbar", sign=SIGN, optional=True, components={"*": ORDER}),
    "magmom": FieldRule("structure.sites.*.properties.magmom", per_atom=True, optional=True),
    "kind": FieldRule("kind", values={"metal": 1}, optional=True),
}  # fmt: skip
LATTICE = [[4.0, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 4.0]]
LABELS = {
    "id": 7, "energy": -1.5, "forces": [[0.1, 0.2, 0.3], [-0.1, -0.2, -0.3]],
    "stress": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], "kind": "metal",
}  # fmt: skip
PYMATGEN = {
    "@module": "pymatgen.core.structure",
    "lattice": {"matrix": LATTICE, "a": 4.0, "b": 4.0, "c": 4.0, "alpha": 90.0, "beta": 90.0,
                "gamma": 90.0, "pbc": [True, True, True]},
    "sites": [
        {"species": [{"element": "Na+", "occu": 1}], "abc": [0.0, 0.0, 0.0], "xyz": [0.0, 0.0, 0.0],
         "label": "Na", "properties": {"magmom": 0.5}},
        {"species": [{"element": "Cl-", "occu": 1}], "abc": [0.5, 0.5, 0.5], "xyz": [2.0, 2.0, 2.0],
         "label": "Cl", "properties": {"magmom": 0.1}},
    ],
}  # fmt: skip
JARVIS = {"lattice_mat": LATTICE, "coords": [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]],
          "elements": ["Na", "Cl"], "cartesian": False}  # fmt: skip
BARE = {
    "numbers": {"__ndarray__": [[2], "int64", [11, 17]]}, "pbc": [True, True, False],
    "positions": {"__ndarray__": [[2, 3], "float64", [0.0, 0.0, 0.0, 2.0, 2.0, 2.0]]},
    "cell": {"array": {"__ndarray__": [[3, 3], "float64", [4.0, 0, 0, 0, 4.0, 0, 0, 0, 4.0]]},
             "__ase_objtype__": "cell"},
}  # fmt: skip
ENTRIES = [
    {**LABELS, "structure": PYMATGEN},
    {**LABELS, "atoms": JARVIS},
    {**LABELS, **BARE},
    {
        **LABELS, "species": ["Na", "Cl"], "frac_coords": JARVIS["coords"],
        "cell": [4, 4, 4, 90, 90, 90],
    },
]  # fmt: skip

odd = st.one_of(
    st.sampled_from([None, True, False, 0, -1, 10**30, 10**400, -(2**63), 1e308, -1e308, 1e-320]),
    st.sampled_from([float("nan"), float("inf"), [], {}, [[]], [None], {"": None}, [{}]]),
    st.sampled_from(["", " ", "x", "na", "NaN", "1e400", "[1, 2]", "{'a': 1}", "[[", "Fe", "26"]),
    st.sampled_from(["\x00", "é" * 300, "9" * 400, "TTT", "data_x", "\ud800"]),
    st.sampled_from([{"__ndarray__": [[2], "float64", [1]]}, {"__ndarray__": None}, {"array": 1}]),
    st.sampled_from([[[1, 2], [3]], [0, 0, 0], [[0, 0, 0]] * 3, [1e9] * 6, {"matrix": [1]}]),
    st.integers(),
    st.floats(),
    st.text(max_size=6),
    st.lists(st.floats() | st.integers() | st.none() | st.text(max_size=2), max_size=9),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Walks the paths of everything inside a nested value."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        yield (*path, key)
        if isinstance(item, (dict, list)):
            yield from places(item, (*path, key))


def change(draw: Callable[[Any], Any], entry: Any) -> Any:
    """Returns a copy of ``entry`` with one to three things changed."""
    entry = copy.deepcopy(entry)
    for _ in range(draw(st.integers(1, 3))):
        options = list(places(entry))
        if not options:
            break
        *heads, last = draw(st.sampled_from(options))
        inner = entry
        for head in heads:
            inner = inner[head]
        action = draw(st.sampled_from(["set", "set", "set", "delete", "wrap", "repeat", "rename"]))
        if action == "delete":
            del inner[last]
        elif action == "wrap":
            inner[last] = [inner[last]]
        elif action == "repeat" and isinstance(inner[last], (list, str)):
            inner[last] = inner[last] * 2
        elif action == "rename" and isinstance(inner, dict):
            inner[draw(st.text(max_size=3))] = inner.pop(last)
        else:
            inner[last] = copy.deepcopy(draw(odd))  # the next change must not alter the strategy
    return entry


def outcomes(source: PieceSource, path: Path) -> int:
    """Reads a file to its end or to an error of ours; anything else escapes and fails the test."""
    count = 0
    with contextlib.suppress(EpitaxyError):
        for piece in source.pieces(str(path)):
            assert isinstance(piece, (Piece, BadRecord))
            item = parse_piece(source, piece)
            assert isinstance(item, (CrystalRecord, BadRecord))
            if isinstance(item, BadRecord):
                assert isinstance(item.error, EpitaxyError)
                assert str(item.error).encode(), "it goes into a log"
                assert item.where.encode().startswith(str(path).encode())
            count += 1
    return count


@pytest.fixture(autouse=True)
def silence(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)


@FUZZ
@given(st.data(), st.sampled_from(range(len(ENTRIES))))
def test_changed_entries(tmp_path: Path, data: st.DataObject, number: int) -> None:
    entry = change(data.draw, ENTRIES[number])
    path = tmp_path / "a.json"
    path.write_text(json.dumps([entry, ENTRIES[number]]))
    assert outcomes(JsonEntries(FRAME_FIELDS, id="id", group="{kind}-{row}"), path) == 2


def test_the_entries_are_sound_before_they_are_changed(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(ENTRIES))
    records = list(JsonEntries(FRAME_FIELDS, id="{id}-{row}").read(str(path)))
    assert [type(record) for record in records] == [CrystalRecord] * 4
    labels = {"energy", "forces", "stress", "kind"}
    assert all(set(record.labels) >= labels for record in records)  # type: ignore[union-attr]


@FUZZ
@given(st.data())
def test_changed_tables(tmp_path: Path, data: st.DataObject) -> None:
    table = {
        "index": [0, 3], "columns": ["structure", "energy", "kind"],
        "data": [[PYMATGEN, 1.0, "metal"], [JARVIS, None, "metal"]],
    }  # fmt: skip
    layouts = [
        table,
        {key: table[key] for key in ("data", "columns", "index")},
        {"structure": {"0": PYMATGEN}, "energy": {"0": 1.0}},
        {"0": {"structure": PYMATGEN, "energy": 1.0}},
        {"structure": [PYMATGEN], "energy": [1.0]},
        {"schema": {}, "data": [{"structure": PYMATGEN, "energy": 1.0}]},
        [{"structure": PYMATGEN, "energy": 1.0}],
    ]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(change(data.draw, data.draw(st.sampled_from(layouts)))))
    outcomes(MatbenchJson(FRAME_FIELDS, id="x-{row:03d}"), path)
    outcomes(MatbenchJson(FRAME_FIELDS), path)


@FUZZ
@given(st.data())
def test_changed_databases_of_ase(tmp_path: Path, data: st.DataObject) -> None:
    row = {**BARE, "energy": -1.5, "key_value_pairs": {"kind": "metal"}, "data": {"x": [1]}}
    content = change(data.draw, {"1": row, "2": row, "ids": [1, 2], "nextid": 3})
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    outcomes(AseDb(FRAME_FIELDS), path)


@FUZZ
@given(st.data())
def test_changed_rows(tmp_path: Path, data: st.DataObject) -> None:
    rows = [["id", "energy", "forces", "stress", "kind", "atoms"],
            ["7", "-1.5", str(LABELS["forces"]), "[1, 2, 3, 4, 5, 6]", "metal", json.dumps(JARVIS)],
            ["8", "", "", "", "", str(JARVIS)]]  # fmt: skip
    rows = change(data.draw, rows)
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerows(row if isinstance(row, list) else [row] for row in rows)
    path = tmp_path / "a.csv"
    path.write_bytes(stream.getvalue().encode("utf-8", "replace"))
    outcomes(CsvTable(FRAME_FIELDS, id="id"), path)
    outcomes(CsvTable({"v": FieldRule("1:4", optional=True)}, composition="kind"), path)


CIF = (
    "data_x\n_cell_length_a 4\n_cell_length_b 4\n_cell_length_c 4\n_cell_angle_alpha 90\n"
    "_cell_angle_beta 90\n_cell_angle_gamma 90\n_symmetry_space_group_name_H-M 'P 1'\nloop_\n"
    "_symmetry_equiv_pos_as_xyz\n'x, y, z'\nloop_\n_atom_site_label\n_atom_site_type_symbol\n"
    "_atom_site_fract_x\n_atom_site_fract_y\n_atom_site_fract_z\n_atom_site_occupancy\n"
    "Na1 Na+ 0 0 0 1\nCl1 Cl- 0.5 0.5 0.5 1\n"
)
POSCAR = (
    "x\n1.0\n4 0 0\n0 4 0\n0 0 4\nNa Cl\n1 1\nSelective\nDirect\n0 0 0 T T F\n0.5 0.5 0.5 F F F\n"
)
XYZ = (
    '2\nLattice="4 0 0 0 4 0 0 0 4" pbc="T T T" energy=-1.5 stress="1 2 3 4 5 6" kind=metal '
    "Properties=species:S:1:pos:R:3:forces:R:3\nNa 0 0 0 0.1 0.2 0.3\nCl 2 2 2 -0.1 -0.2 -0.3\n"
) * 2  # fmt: skip

tokens = st.one_of(
    st.sampled_from(["", " ", "\n", "\n\n", "0", "-1", "1e400", "nan", "inf", "x", "'", '"', "{"]),
    st.sampled_from(["}", "[", ":", "_", "loop_", "data_y", "999999999999", "0.5", "Fe", "\x00"]),
    st.sampled_from(["\t", "é", "=", "()", "#", ";", "*****", ",", "<", "&", "]"]),
)


def garble(draw: Callable[[Any], Any], text: str) -> str:
    """Returns ``text`` with pieces cut out, put in, doubled or moved."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        stop = draw(st.integers(start, min(len(text), start + 40)))
        action = draw(st.sampled_from(["cut", "put", "double", "end"]))
        if action == "end":
            text = text[:start]
        else:
            middle = {"cut": "", "put": draw(tokens), "double": text[start:stop] * 2}[action]
            text = text[:start] + middle + text[stop if action != "put" else start :]
    return text


@settings(FUZZ, max_examples=100)
@given(st.data(), st.sampled_from([CIF, POSCAR, json.dumps(PYMATGEN), str(JARVIS)]))
def test_garbled_structures(data: st.DataObject, text: str) -> None:
    with contextlib.suppress(EpitaxyError):
        parse_structure(garble(data.draw, text), "x")


@settings(FUZZ, max_examples=100)
@given(st.data())
def test_garbled_frames(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "a.xyz"
    path.write_bytes(garble(data.draw, XYZ).encode())
    outcomes(ExtendedXyz(FRAME_FIELDS), path)


@settings(FUZZ, max_examples=60)
@given(st.data(), st.booleans())
def test_garbled_calculations(tmp_path: Path, data: st.DataObject, log: bool) -> None:
    path = tmp_path / ("OUTCAR" if log else "vasprun.xml")
    path.write_bytes(garble(data.draw, (outcar if log else vasprun)(made_up(2))).encode())
    outcomes(VaspRuns(FRAME_FIELDS), path)


@settings(FUZZ, max_examples=60)
@given(st.data())
def test_garbled_json(tmp_path: Path, data: st.DataObject) -> None:
    text = garble(data.draw, json.dumps(ENTRIES[:2]))
    for name in ("a.json", "a.jsonl"):
        path = tmp_path / name
        path.write_bytes(text.encode())
        outcomes(JsonEntries(FRAME_FIELDS), path)
        outcomes(MatbenchJson(FRAME_FIELDS), path)
    outcomes(JsonEntries(FRAME_FIELDS, levels=3), tmp_path / "a.json")
    outcomes(JsonEntries(FRAME_FIELDS, levels=0), tmp_path / "a.json")
    outcomes(AseDb(FRAME_FIELDS), tmp_path / "a.json")


@settings(FUZZ, max_examples=40)
@given(st.data())
def test_flipped_bytes(tmp_path: Path, data: st.DataObject) -> None:
    packed = bytearray(gzip.compress(json.dumps(ENTRIES).encode(), mtime=0))
    for _ in range(data.draw(st.integers(1, 4))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "a.json.gz"
    path.write_bytes(bytes(packed))
    outcomes(JsonEntries(FRAME_FIELDS), path)
    path = tmp_path / "a.tar.gz"
    path.write_bytes(bytes(packed))
    outcomes(StructureFolder(FRAME_FIELDS), path)


@settings(FUZZ, max_examples=60)
@given(st.data())
def test_garbled_tables_of_a_folder(tmp_path: Path, data: st.DataObject) -> None:
    (tmp_path / "1.cif").write_text(CIF)
    (tmp_path / "id_prop.csv").write_bytes(garble(data.draw, '1,"2",3\n1,2,3\n').encode())
    outcomes(StructureFolder({"y": FieldRule("1:3", optional=True)}), tmp_path)
