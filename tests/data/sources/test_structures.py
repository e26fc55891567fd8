"""CIF, POSCAR, pymatgen, JARVIS and ASE notations, against hand-built crystals and pymatgen."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymatgen.core import Lattice, Molecule, Structure
from pymatgen.io.vasp import Poscar

from epitaxy.data.sources.structures import (
    from_pymatgen,
    parse_cif,
    parse_jarvis,
    parse_poscar,
    parse_pymatgen,
    parse_structure,
)
from epitaxy.errors import RecordError

CIF = """data_{name}
_cell_length_a 4
_cell_length_b 4
_cell_length_c 5
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma {gamma}
loop_
_symmetry_equiv_pos_as_xyz
'x, y, z'
'-x, -y, -z'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Na1 Na 0 0 0 1
Cl1 {element} 0.1 0.2 0.3 {occupancy}
"""


def cif(name: str = "x", gamma: float = 90, element: str = "Cl", occupancy: float = 1) -> str:
    return CIF.format(name=name, gamma=gamma, element=element, occupancy=occupancy)


def test_symmetry_is_applied() -> None:
    """The inversion doubles chlorine at (0.1, 0.2, 0.3), not sodium at the origin."""
    numbers, positions, cell, pbc = parse_cif(cif(), "x.cif")
    assert sorted(numbers.tolist()) == [11, 17, 17]
    np.testing.assert_allclose(cell, np.diag([4, 4, 5]), atol=1e-12)
    found = {tuple(np.round(row, 9) % 1) for row in positions[numbers == 17] / [4, 4, 5]}
    assert found == {(0.1, 0.2, 0.3), (0.9, 0.8, 0.7)}
    assert pbc.all()


def test_it_reads_what_pymatgen_reads(data_dir: Path) -> None:
    """The original CGCNN code reads its files by ``Structure.from_file``."""
    folder = data_dir / "importers" / "cgcnn_sample_regression"
    for path in sorted(folder.glob("*.cif"))[:4]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = Structure.from_file(path)
        numbers, positions, cell, _ = parse_cif(path.read_text(), path.name)
        assert numbers.tolist() == list(expected.atomic_numbers)
        np.testing.assert_array_equal(positions, expected.cart_coords)
        np.testing.assert_array_equal(cell, expected.lattice.matrix)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (cif(occupancy=0.5), "not fully occupied by one element: Cl:0.5"),
        (cif() + cif(name="y"), "holds 2 structures"),
        ("", "cannot be read"),
        ("data_x\n_cell_length_a 4\n", "cannot be read"),
        (cif(gamma=180), "cannot be read|no volume|structures"),
        (cif(element="Qq"), "cannot be read|no element"),
    ],
)
def test_unusable_cifs_are_refused(text: str, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        parse_cif(text, "x.cif")


def test_ions_and_deuterium_in_a_cif() -> None:
    assert sorted(parse_cif(cif(element="Cl1-"), "x").numbers.tolist()) == [11, 17, 17]
    assert sorted(parse_cif(cif(element="D"), "x").numbers.tolist()) == [1, 1, 11]


def test_warnings_of_the_parser_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A formula that the sites do not give, as where hydrogen was not located."""
    parse_cif(cif() + "_chemical_formula_sum 'Na1 Cl2 H4'\n", "x.cif")
    assert "x.cif: " in caplog.text
    caplog.clear()
    plain = cif().replace("loop_\n_symmetry_equiv_pos_as_xyz\n'x, y, z'\n'-x, -y, -z'\n", "")
    assert len(parse_cif(plain, "y.cif").numbers) == 2
    assert caplog.text.count("y.cif: ") == 1
    assert "Defaulting to P1" in caplog.text


POSCAR = """NaCl
{scale}
4 0 0
0 4 0
0 0 4
{symbols}
{mode}
{rows}
"""
ROWS = "0 0 0\n0.5 0.5 0.5"


def poscar(
    scale: str = "1.0", symbols: str = "Na Cl\n1 1", mode: str = "Direct", rows: str = ROWS
) -> str:
    return POSCAR.format(scale=scale, symbols=symbols, mode=mode, rows=rows)


@pytest.mark.parametrize(
    "text",
    [
        poscar(),
        poscar(mode="Cartesian", rows="0 0 0\n2 2 2"),
        poscar(mode="cartesian", rows="0 0 0 Na\n2 2 2 Cl"),
        poscar(scale="0.5").replace("4", "8"),
        poscar(scale="-64"),  # the volume
        poscar(mode="Selective dynamics\nDirect", rows="0 0 0 T T F\n0.5 0.5 0.5 F F F"),
        poscar(symbols="Na_pv Cl/0a1b2c\n1 1"),
        poscar(symbols="1 1", rows="0 0 0 Na\n0.5 0.5 0.5 Cl"),  # VASP 4 with symbols at the sites
        poscar().replace("\n", "\r\n"),
        poscar() + "\n0 0 0\n0 0 0\n",  # velocities
    ],
)
def test_poscars(text: str) -> None:
    for parsed in (parse_poscar(text), parse_structure(text, "POSCAR")):
        assert parsed.numbers.tolist() == [11, 17]
        np.testing.assert_allclose(parsed.positions, [[0, 0, 0], [2, 2, 2]], atol=1e-12)
        np.testing.assert_allclose(parsed.cell, np.eye(3) * 4, atol=1e-12)


def test_a_poscar_as_pymatgen_writes_it() -> None:
    structure = Structure(
        Lattice.hexagonal(3, 5), ["Zn", "O"], [[1 / 3, 2 / 3, 0], [0.1, 0.2, 0.9]]
    )
    parsed = parse_poscar(Poscar(structure).get_str(significant_figures=12))
    np.testing.assert_allclose(parsed.positions, structure.cart_coords, atol=1e-10)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (poscar(symbols="1 1"), r"no line of element symbols \(VASP 4\): add one"),
        (poscar(symbols="Na Cl\n1 900000000000"), "atoms, but fewer lines"),
        (poscar(symbols="Na Cl\n1 40"), "atoms, but fewer lines"),
        (poscar(symbols="Na Qq\n1 1"), "site 1: 'Qq' is no element"),
        (poscar(rows="0 0 0"), "POSCAR cannot be read"),
        (poscar(rows="0 0 x\n0 0 0"), "POSCAR cannot be read"),
        (poscar(scale="x"), "POSCAR cannot be read"),
        ("rocksalt", "POSCAR cannot be read"),
        (" \n", "empty text"),
    ],
)
def test_unusable_poscars_are_refused(text: str, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        parse_structure(text, "x")


ATOMS = {
    "lattice_mat": [[4, 0, 0], [2, 3, 0], [0, 0, 5]],
    "coords": [[0, 0, 0], [0.5, 0.5, 0.5]],
    "elements": ["Na", "Cl"],
}


def test_jarvis_coordinates_are_fractional_unless_said() -> None:
    numbers, positions, cell, pbc = parse_jarvis(ATOMS)
    assert numbers.tolist() == [11, 17]
    assert positions.tolist() == [[0, 0, 0], [3, 1.5, 2.5]]
    assert cell.tolist() == ATOMS["lattice_mat"]
    assert pbc.all()
    for flag in (True, "True", 1):
        assert parse_jarvis({**ATOMS, "cartesian": flag}).positions.tolist() == ATOMS["coords"]
    for flag in (False, "False", 0, None):
        assert parse_jarvis({**ATOMS, "cartesian": flag}).positions[1].tolist() == [3, 1.5, 2.5]


@pytest.mark.parametrize(
    ("atoms", "message"),
    [
        ("Na", "expected a dictionary"),
        ({k: v for k, v in ATOMS.items() if k != "coords"}, "has no 'coords', only lattice_mat"),
        ({**ATOMS, "coords": None}, "has no 'coords'"),
        ({**ATOMS, "elements": ["Na", "Qq"]}, "atom 1: 'Qq' is no element"),
        ({**ATOMS, "lattice_mat": [[1, 2], [3, 4]]}, r"'cell' has shape|rows of three"),
        ({**ATOMS, "coords": [[0, 0, 0], [1, 1]]}, "no array of numbers"),
        ({**ATOMS, "cartesian": "maybe"}, "expected three of true and false"),
    ],
)
def test_unusable_entries_are_refused(atoms: Any, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        parse_jarvis(atoms)


STRUCTURE = Structure(Lattice.hexagonal(3, 5), ["Fe2+", "O2-"], [[0, 0, 0], [1 / 3, 2 / 3, 0.4]])


def as_dict(**changes: Any) -> dict[str, Any]:
    """The dictionary of an ordinary structure; ``sites`` gives changes for each of its sites."""
    found = json.loads(json.dumps(STRUCTURE.as_dict()))
    for site in found["sites"]:
        for key, value in changes.get("sites", {}).items():
            site.pop(key) if value is None else site.update({key: value})
    return found | {key: value for key, value in changes.items() if key != "sites"}


def test_a_dictionary_of_pymatgen() -> None:
    parsed = parse_pymatgen(as_dict())
    assert parsed.numbers.tolist() == [26, 8]
    np.testing.assert_allclose(parsed.positions, STRUCTURE.cart_coords, atol=1e-12)
    np.testing.assert_array_equal(parsed.cell, STRUCTURE.lattice.matrix)
    assert parsed.pbc.all()
    same = from_pymatgen(STRUCTURE)
    np.testing.assert_array_equal(same.positions, STRUCTURE.cart_coords)
    assert same.numbers.tolist() == [26, 8]


LENGTHS = {k: STRUCTURE.as_dict()["lattice"][k] for k in ("a", "b", "c", "alpha", "beta", "gamma")}
OLD = [
    as_dict(sites={"xyz": None}),
    as_dict(sites={"abc": None}),
    as_dict(sites={"label": None, "properties": None}),
    as_dict(lattice={"matrix": STRUCTURE.lattice.matrix.tolist()}),
    as_dict(lattice=STRUCTURE.lattice.matrix.tolist()),
    as_dict(lattice=LENGTHS),
    as_dict(lattice={**LENGTHS, "matrix": [STRUCTURE.lattice.matrix.tolist()], "pbc": None}),
]


@pytest.mark.parametrize("entry", OLD)
def test_dictionaries_of_other_versions(entry: dict[str, Any]) -> None:
    parsed = parse_structure(entry, "x")
    assert parsed.numbers.tolist() == [26, 8]
    np.testing.assert_allclose(parsed.positions, STRUCTURE.cart_coords, atol=1e-12)
    np.testing.assert_allclose(parsed.cell, STRUCTURE.lattice.matrix, atol=1e-12)
    assert parsed.pbc.all()


@pytest.mark.parametrize(
    "species",
    [
        [{"element": "Fe2+", "occu": 1}],
        [{"element": "Fe", "oxidation_state": 2.0, "occu": 1.0}],
        [{"element": "Fe", "occu": 0.99999}],
        [{"element": "Fe"}],
        [{"element": "Fe2+", "occu": 0.4}, {"element": "Fe3+", "occu": 0.6}],
        {"Fe3+": 1.0},
        ["Fe"],
        "Fe",
    ],
)
def test_species(species: Any) -> None:
    entry = as_dict(sites={"species": species})
    assert parse_pymatgen(entry).numbers.tolist() == [26, 26]


def test_a_site_with_a_label_only() -> None:
    assert parse_pymatgen(as_dict(sites={"species": None})).numbers.tolist() == [26, 8]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"species": [{"element": "Fe", "occu": 0.5}]}, "site 0 is not fully.*: Fe:0.5"),
        (
            {"species": [{"element": "Fe", "occu": 0.5}, {"element": "Ni", "occu": 0.5}]},
            "site 0 is not fully occupied by one element: Fe:0.5, Ni:0.5",
        ),
        ({"species": [{"element": "X0+", "occu": 1}]}, "site 0: 'X0\\+' is no element"),
        ({"species": [{"occu": 1}]}, "site 0: '' is no element"),
        ({"species": [{"element": "Fe", "occu": None}]}, "site 0: 'occu' is 'None'"),
        ({"species": [{"element": "Fe", "occu": float("nan")}]}, "not fully occupied"),
        ({"species": []}, "site 0 has species"),
        ({"species": 26}, "site 0 has species '26', expected a list"),
        ({"species": None, "label": None}, "site 0: '' is no element"),
        ({"xyz": [0.5, 0, 0]}, "'abc' and 'xyz' of a site are .* apart"),
        ({"abc": None, "xyz": None}, "a site has neither 'abc' with a lattice nor 'xyz'"),
        ({"abc": [0, 0], "xyz": None}, "'abc' has shape"),
        ({"abc": ["a", "b", "c"], "xyz": None}, "'abc' is no array of numbers"),
    ],
)
def test_sites_that_cannot_be_used(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecordError, match=message):
        parse_pymatgen(as_dict(sites=changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lattice": {}}, "neither a matrix nor lengths and angles: no a, b"),
        ({"lattice": "cubic"}, "malformed"),
        ({"lattice": {"matrix": [[1, 0, 0]]}}, "expected three lattice vectors"),
        ({"lattice": None, "sites": {"xyz": None}}, "neither 'abc' with a lattice"),
    ],
)
def test_lattices_that_cannot_be_used(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecordError, match=message):
        parse_pymatgen(as_dict(**changes))
    for sites in ("x", [1], {"a": {}}):
        with pytest.raises(RecordError, match="'sites' must be a list of dictionaries"):
            parse_pymatgen({**as_dict(), "sites": sites})


def test_coordinates_in_another_image_of_the_cell_agree() -> None:
    entry = as_dict()
    for site in entry["sites"]:
        site["xyz"] = (np.array(site["xyz"]) + STRUCTURE.lattice.matrix[1]).tolist()
    np.testing.assert_allclose(parse_pymatgen(entry).positions, STRUCTURE.cart_coords, atol=1e-12)


def test_a_strained_lattice_with_the_old_coordinates_is_noticed() -> None:
    entry = as_dict(lattice={"matrix": (STRUCTURE.lattice.matrix * 1.1).tolist()})
    with pytest.raises(RecordError, match="or the lattice, was changed without the other"):
        parse_pymatgen(entry)


def test_slabs_and_molecules() -> None:
    slab = as_dict(
        lattice={"matrix": STRUCTURE.lattice.matrix.tolist(), "pbc": [True, True, False]}
    )
    assert parse_pymatgen(slab).pbc.tolist() == [True, True, False]
    water = Molecule(["O", "H", "H"], [[0, 0, 0], [0.76, 0.59, 0], [-0.76, 0.59, 0]])
    for parsed in (parse_pymatgen(water.as_dict()), from_pymatgen(water)):
        assert parsed.numbers.tolist() == [8, 1, 1]
        assert parsed.positions.tolist() == water.cart_coords.tolist()
        assert not parsed.pbc.any()
    assert from_pymatgen(
        Structure(Lattice(np.eye(3) * 4, pbc=(True, False, True)), ["Fe"], [[0, 0, 0]])
    ).pbc.tolist() == [True, False, True]


def test_structures_of_pymatgen_with_shared_sites_are_refused() -> None:
    shared = Structure(Lattice.cubic(4), [{"Fe": 0.5, "Ni": 0.5}], [[0, 0, 0]])
    with pytest.raises(RecordError, match="site 0 is not fully occupied by one element"):
        from_pymatgen(shared)
    mixed = Structure(Lattice.cubic(4), [{"Fe2+": 0.5, "Fe3+": 0.5}], [[0, 0, 0]])
    assert from_pymatgen(mixed).numbers.tolist() == [26]


def test_the_notation_is_recognised() -> None:
    texts = [cif(), "# a comment\n" + cif(), json.dumps(as_dict()), str(ATOMS), poscar()]
    sizes = [len(parse_structure(text, "x").numbers) for text in texts]
    assert sizes == [3, 3, 2, 2, 2]
    assert len(parse_structure(cif(), "x", notation="cif").numbers) == 3
    with pytest.raises(RecordError, match="POSCAR cannot be read"):
        parse_structure(cif(), "x", notation="poscar")
    with pytest.raises(RecordError, match="is malformed"):
        parse_structure(cif(), "x", notation="json")
    for value in (None, 3, [1, 2], b"data_x"):
        with pytest.raises(RecordError, match="expected a dictionary or text"):
            parse_structure(value, "x")


def test_a_row_of_ase_as_json() -> None:
    row = {"numbers": [11], "positions": [[0, 0, 0]], "cell": [[4, 0, 0], [0, 4, 0], [0, 0, 4]]}
    text = json.dumps({"1": row, "ids": [1], "nextid": 2})
    assert parse_structure(text, "x").numbers.tolist() == [11]
    two = json.dumps({"1": row, "2": row, "ids": [1, 2], "nextid": 3})
    with pytest.raises(RecordError, match=r"database of 2 structures.*ase_db\.AseDb"):
        parse_structure(two, "x")
