"""CIF and JARVIS notations, against hand-built crystals and pymatgen's own reader."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymatgen.core import Structure

from epitaxy.data.sources.structures import parse_cif, parse_jarvis
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
    numbers, positions, cell = parse_cif(cif(), "x.cif")
    assert sorted(numbers.tolist()) == [11, 17, 17]
    np.testing.assert_allclose(cell, np.diag([4, 4, 5]), atol=1e-12)
    found = {tuple(np.round(row, 9) % 1) for row in positions[numbers == 17] / [4, 4, 5]}
    assert found == {(0.1, 0.2, 0.3), (0.9, 0.8, 0.7)}


def test_it_reads_what_pymatgen_reads(data_dir: Path) -> None:
    """The original CGCNN code reads its files by ``Structure.from_file``."""
    folder = data_dir / "importers" / "cgcnn_sample_regression"
    for path in sorted(folder.glob("*.cif"))[:4]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = Structure.from_file(path)
        numbers, positions, cell = parse_cif(path.read_text(), path.name)
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
    ],
)
def test_unusable_cifs_are_refused(text: str, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        parse_cif(text, "x.cif")


def test_warnings_of_the_parser_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A formula that the sites do not give, as where hydrogen was not located."""
    parse_cif(cif() + "_chemical_formula_sum 'Na1 Cl2 H4'\n", "x.cif")
    assert "x.cif: " in caplog.text


ATOMS = {
    "lattice_mat": [[4, 0, 0], [2, 3, 0], [0, 0, 5]],
    "coords": [[0, 0, 0], [0.5, 0.5, 0.5]],
    "elements": ["Na", "Cl"],
}


def test_jarvis_coordinates_are_fractional_unless_said() -> None:
    numbers, positions, cell = parse_jarvis(ATOMS)
    assert numbers.tolist() == [11, 17]
    assert positions.tolist() == [[0, 0, 0], [3, 1.5, 2.5]]
    assert cell.tolist() == ATOMS["lattice_mat"]
    cartesian = parse_jarvis({**ATOMS, "cartesian": True})[1]
    assert cartesian.tolist() == ATOMS["coords"]


@pytest.mark.parametrize(
    ("atoms", "message"),
    [
        ("Na", "expected a dictionary"),
        ({k: v for k, v in ATOMS.items() if k != "coords"}, "has no 'coords'"),
        ({**ATOMS, "elements": ["Na", "Qq"]}, "atom 1 is of unknown element 'Qq'"),
        ({**ATOMS, "lattice_mat": [[1, 2], [3, 4]]}, "wrong form"),
        ({**ATOMS, "coords": [[0, 0, 0], [1, 1]]}, "wrong form"),
    ],
)
def test_unusable_entries_are_refused(atoms: Any, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        parse_jarvis(atoms)
