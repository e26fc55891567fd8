"""Structures as bare arrays: every shape they come in, and every one that must not pass."""

from __future__ import annotations

import json
from typing import Any

import ase.io.jsonio
import numpy as np
import pytest
from ase import Atoms
from ase.geometry import cellpar_to_cell
from monty.json import MontyEncoder
from pymatgen.core import Lattice

from epitaxy.data.sources import arrays
from epitaxy.data.sources.arrays import decode_arrays, parse_arrays
from epitaxy.errors import RecordError

CELL = [[4.0, 0.0, 0.0], [0.0, 5.0, 0.0], [1.0, 0.0, 6.0]]
POSITIONS = [[0.0, 0.0, 0.0], [2.5, 2.5, 3.0]]
FRACTIONAL = [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]]
ENTRY = {"numbers": [11, 17], "positions": POSITIONS, "cell": CELL}


@pytest.mark.parametrize(
    "entry",
    [
        ENTRY,
        {"atomic_numbers": [11.0, 17.0], "pos": POSITIONS, "lattice": CELL},
        {"species": ["Na", "Cl"], "cart_coords": np.ravel(POSITIONS).tolist(), "box": [CELL]},
        {"symbols": [["Na+", "Cl-"]], "xyz": [POSITIONS], "lattice_vectors": np.ravel(CELL)},
        {"Z": [[11], [17]], "frac_coords": FRACTIONAL, "lattice_mat": np.array(CELL)},
        {"elements": "Na, Cl", "scaled_positions": [FRACTIONAL], "cell": str(CELL)},
        {"elements": '["Na", "Cl"]', "positions": str(POSITIONS), "cell": {"matrix": CELL}},
        {"z": np.array([11, 17]), "pos": np.array(POSITIONS, dtype=np.float32), "cell": CELL},
        {"numbers": ["11", "17"], "positions": POSITIONS, "cell": CELL, "pbc": True},
        {"numbers": ["Na", 17], "positions": POSITIONS, "cell": CELL, "pbc": "TTT"},
        {
            "species_at_sites": ["Na", "Cl"], "cartesian_site_positions": POSITIONS,
            "lattice_vectors": CELL, "dimension_types": [1, 1, 1],
        },
    ],
)  # fmt: skip
def test_forms_of_one_crystal(entry: dict[str, Any]) -> None:
    numbers, positions, cell, pbc = parse_arrays(entry, {})
    assert numbers.tolist() == [11, 17]
    np.testing.assert_allclose(positions, POSITIONS, atol=1e-12)
    assert cell.tolist() == CELL
    assert pbc.tolist() == [True] * 3


def test_names_of_arrays_are_free() -> None:
    entry = {"h": CELL, "at": {"kinds": ["Na", "Cl"], "s": FRACTIONAL}, "positions": [[9, 9, 9]]}
    names = {"cell": "h", "elements": "at.kinds", "fractional": "at.s"}
    assert parse_arrays(entry, names).positions.tolist() == POSITIONS
    with pytest.raises(RecordError, match=r"no positions, only h, at; .*arrays \(positions or"):
        parse_arrays({"h": CELL, "at": entry["at"]}, {"cell": "h", "elements": "at.kinds"})


@pytest.mark.parametrize(
    ("pbc", "expected"),
    [
        ([True, False, True], [True, False, True]), (np.array([1, 1, 0]), [True, True, False]),
        ("T T F", [True, True, False]), ("[True, False, False]", [True, False, False]),
        ("TFT", [True, False, True]), (False, [False] * 3), ("false", [False] * 3),
        ([[True, True, False]], [True, True, False]), (0, [False] * 3),
        ([1.0, 0.0, 1.0], [True, False, True]),
        (np.True_, [True] * 3),
    ],
)  # fmt: skip
def test_periodicity(pbc: Any, expected: list[bool]) -> None:
    assert parse_arrays({**ENTRY, "pbc": pbc}, {}).pbc.tolist() == expected


@pytest.mark.parametrize("pbc", [[True, False], "xyz", "F T", [None] * 3, {}, 2, "", [[1], [1]]])
def test_other_periodicities_are_refused(pbc: Any) -> None:
    with pytest.raises(RecordError, match=r"'pbc' is .* expected three of true and false"):
        parse_arrays({**ENTRY, "pbc": pbc}, {})


def test_without_a_cell_nothing_is_periodic() -> None:
    numbers, _, cell, pbc = parse_arrays({"elements": ["O", "H"], "pos": POSITIONS}, {})
    assert numbers.tolist() == [8, 1]
    assert not cell.any()
    assert not pbc.any()
    wire = parse_arrays({**ENTRY, "cell": [[4, 0, 0], [0, 0, 0], [0, 0, 0]]}, {})
    assert wire.pbc.tolist() == [True, False, False]


def test_cells_by_lengths_and_angles() -> None:
    """Six numbers are ASE's (a along x); a dictionary is pymatgen's (c along z)."""
    six = [4.0, 5.0, 6.0, 80.0, 95.0, 110.0]
    np.testing.assert_allclose(arrays.read_cell(six), cellpar_to_cell(six))
    named = dict(zip(("a", "b", "c", "alpha", "beta", "gamma"), six, strict=True))
    np.testing.assert_allclose(
        arrays.read_lattice(named), Lattice.from_parameters(*six).matrix, atol=1e-12
    )
    assert arrays.read_cell([4, 5, 6]).tolist() == np.diag([4.0, 5.0, 6.0]).tolist()
    assert arrays.read_cell({"matrix": None, **named}).shape == (3, 3)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ([4, 4, 4, 10, 10, 170], "no cell has these lengths and angles: 4, 4, 4, 10, 10, 170"),
        ([4, 4, -4, 90, 90, 90], "no cell has"),
        ([4, 4, 1e9, 90, 90, 90], "no cell has"),
        ([4, 4, 4, 120, 120, 120], "no cell has"),  # a flat one
        ({"a": 4, "b": 4}, "no c, alpha, beta, gamma"),
        ({"a": 4, "b": 4, "c": "x", "alpha": 90, "beta": 90, "gamma": 90}, "no array of numbers"),
        ([4, 4], r"shape \(2,\)"),
        (5.43, r"shape \(\)"),
        ([[4, 0], [0, 4]], r"shape \(2, 2\)"),
        (np.zeros((2, 3)), r"shape \(2, 3\), expected three lattice vectors"),
        (np.eye(3) * 1e7, r"'cell' has 1e\+07 Å, more than 1e\+06"),
        ([[4, 0, 0], [0, float("nan"), 0], [0, 0, 4]], "'cell' holds NaN"),
        ("cubic", "malformed"),
        ([[4, 0, 0], [0, 4, 0], [0, 0, 10**400]], "no array of numbers"),
        ([[4, 0, 0], [0, 4, 0], [0, 0]], "no array of numbers"),
        (np.eye(3) * 1j, "an array of complex128"),
    ],
)
def test_what_is_no_cell(cell: Any, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        arrays.read_cell(cell)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"numbers": None}, "names no elements; name them in the source's arrays"),
        ({"numbers": [11, 0]}, "atom 1: 0 is no atomic number"),
        ({"numbers": [11, 119]}, "atom 1: 119 is no atomic number"),
        ({"numbers": [11, 17.5]}, "atom 1: 17.5 is no atomic number"),
        ({"numbers": [11, None]}, "atom 1: 'None' is no element"),
        ({"numbers": [True, 17]}, "atom 0: nan is no atomic number"),
        ({"numbers": [11, float("inf")]}, "atom 1: inf is no atomic number"),
        ({"numbers": [11, 10**400]}, "atom 1: .* is no element"),
        ({"numbers": ["Na", "Qq"]}, "atom 1: 'Qq' is no element"),
        ({"numbers": 11}, "the elements are '11', expected a list"),
        ({"numbers": {"Na": 1}}, "expected a list"),
        ({"positions": None}, "no positions, only numbers, positions, cell"),
        ({"positions": [[0, 2.5], [0, 2.5], [0, 3]]}, r"shape \(3, 2\), expected rows of three"),
        ({"positions": [1, 2, 3, 4]}, r"shape \(4,\)"),
        ({"positions": [[0, 0, 0], [1, 1]]}, "no array of numbers"),
        ({"positions": [[0, 0, 0], [1, 1, "x"]]}, "no array of numbers"),
        ({"positions": [[0, 0, 0], [1, 1, None]]}, "no array of numbers|holds NaN"),
        ({"positions": [[0, 0, 0], [1, 1, 1e300]]}, r"1e\+300 Å, more than"),
        ({"positions": "abc"}, "malformed"),
        ({"positions": {"x": 1}}, "no array of numbers"),
    ],
)
def test_what_is_no_structure(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecordError, match=message):
        parse_arrays({**ENTRY, **changes}, {})


def test_fractional_coordinates_need_a_cell() -> None:
    with pytest.raises(RecordError, match="fractional coordinates need a cell"):
        parse_arrays({"numbers": [11, 17], "frac_coords": FRACTIONAL}, {})


def test_arrays_of_ase_and_monty_in_json() -> None:
    atoms = Atoms("NaCl", positions=POSITIONS, cell=CELL, pbc=[True, True, False])
    row = decode_arrays(json.loads(ase.io.jsonio.encode(atoms.todict())))
    assert parse_arrays(row, {}).pbc.tolist() == [True, True, False]
    text = MontyEncoder().encode({"numbers": np.array([11, 17]), "positions": np.array(POSITIONS)})
    assert parse_arrays(decode_arrays(arrays.literal(text)), {}).positions.tolist() == POSITIONS
    nested = decode_arrays({"a": [{"__ndarray__": [[2, 1], "float64", [1, 2]]}]})
    assert nested["a"][0].tolist() == [[1], [2]]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"__ndarray__": [[2, 2], "float64", [1, 2, 3]]}, "JSON array is malformed"),
        ({"__ndarray__": [[2], "no type", [1, 2]]}, "JSON array is malformed"),
        ({"__ndarray__": [[1], "object", [1]]}, "arrays of 'object' are not read"),
        ({"__ndarray__": [[1], "uint8", [10**30]]}, "JSON array is malformed"),
        ({"__ndarray__": 3}, "JSON array is malformed"),
        ({"k": "\ud800"}, "a text is no Unicode"),
        ({"\udfff": 1}, "a text is no Unicode"),
    ],
)
def test_malformed_arrays_in_json(value: Any, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        decode_arrays(value)


def test_deep_nesting_is_refused() -> None:
    value: Any = 1
    for _ in range(arrays.MAX_DEPTH + 2):
        value = {"a": [value]}
    with pytest.raises(RecordError, match="nested more than 50 levels deep"):
        decode_arrays(value)


def test_texts_of_lists_in_json_or_python() -> None:
    assert arrays.literal("{'a': [1, None], 'b': (2.0, True)}") == {
        "a": [1, None],
        "b": (2.0, True),
    }
    assert arrays.literal('{"a": [1, null]}') == {"a": [1, None]}
    for text in ("{", "[1, 2", "__import__('os')", "{'a': open}", "[" * 100_000, "1is 2", "'\\d'["):
        with pytest.raises(RecordError, match="is malformed"):
            arrays.literal(text)
