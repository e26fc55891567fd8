from __future__ import annotations

import ase.units
import pytest

from epitaxy.errors import UnitError
from epitaxy.units import ENERGY, FORCE, STRESS, factor, normalise


@pytest.mark.parametrize(
    ("unit", "to", "expected"),
    [
        ("meV", ENERGY, 1e-3),
        ("Ha", ENERGY, ase.units.Hartree),
        ("Ry", ENERGY, ase.units.Rydberg),
        ("kcal/mol", ENERGY, ase.units.kcal / ase.units.mol),
        ("kJ/mol", ENERGY, ase.units.kJ / ase.units.mol),
        ("Ha/bohr", FORCE, ase.units.Hartree / ase.units.Bohr),
        ("Ry/bohr", FORCE, ase.units.Rydberg / ase.units.Bohr),
        ("meV/Å", FORCE, 1e-3),
        ("GPa", STRESS, ase.units.GPa),
        ("kbar", STRESS, ase.units.GPa / 10),
        ("MPa", STRESS, ase.units.GPa / 1000),
        ("Ha/bohr^3", STRESS, ase.units.Hartree / ase.units.Bohr**3),
    ],
)
def test_factors_agree_with_ase(unit, to, expected):
    assert factor(unit, to) == pytest.approx(expected, rel=1e-6)
    assert factor(to, unit) == pytest.approx(1 / expected, rel=1e-6)


def test_160_gpa_are_about_one_ev_per_cubic_angstrom():
    assert factor("GPa", STRESS) * 160.21766208 == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize(
    ("spelling", "expected"),
    [
        ("eV/A", "eV/Å"),
        ("eV/Ang", "eV/Å"),
        ("eV/Angstrom", "eV/Å"),
        ("eV/A^3", "eV/Å^3"),
        ("eV/A3", "eV/Å^3"),
        ("eV/Å³", "eV/Å^3"),
        ("eV/Angstrom**3", "eV/Å^3"),
        (" kBar ", "kbar"),
        ("eV", "eV"),
        ("Ha/bohr3", "Ha/bohr^3"),
    ],
)
def test_spellings(spelling, expected):
    assert normalise(spelling) == expected


def test_an_unknown_unit_gets_a_suggestion():
    with pytest.raises(UnitError, match="unknown unit 'kbarr'; did you mean 'kbar'"):
        factor("kbarr", STRESS)


def test_units_of_another_quantity_are_refused():
    with pytest.raises(UnitError, match="'eV' to 'GPa': they measure different quantities"):
        factor("eV", "GPa")


def test_a_quantity_of_its_own_needs_no_table():
    assert factor("µB", "µB") == 1.0
