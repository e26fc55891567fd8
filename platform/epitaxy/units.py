"""Units of imported quantities, converted once to the convention of the project.

Convention: energy in eV (total), force in eV/Å, stress in eV/Å³ with **tension positive**
(``(1/V) dE/dε``; ASE's sign). VASP prints compression as positive, in kbar.
"""

from __future__ import annotations

from functools import cache

from epitaxy.errors import UnitError, closest

ENERGY = "eV"
FORCE = "eV/Å"
STRESS = "eV/Å^3"

GPA_PER_EV_A3 = 160.21766208
"""1 eV/Å³ in GPa (CODATA 2014, the value most DFT data sets were converted with)."""

HARTREE_EV = 27.211386245988
BOHR_A = 0.529177210903
KCAL_MOL_EV = 0.0433641042384
KJ_MOL_EV = 0.01036426965268

_FACTORS: dict[str, tuple[str, float]] = {
    # unit -> (canonical unit of its dimension, factor to it)
    "eV": (ENERGY, 1.0),
    "meV": (ENERGY, 1e-3),
    "Ha": (ENERGY, HARTREE_EV),
    "Ry": (ENERGY, HARTREE_EV / 2),
    "kcal/mol": (ENERGY, KCAL_MOL_EV),
    "kJ/mol": (ENERGY, KJ_MOL_EV),
    "eV/Å": (FORCE, 1.0),
    "meV/Å": (FORCE, 1e-3),
    "Ha/bohr": (FORCE, HARTREE_EV / BOHR_A),
    "Ry/bohr": (FORCE, HARTREE_EV / 2 / BOHR_A),
    "kcal/mol/Å": (FORCE, KCAL_MOL_EV),
    "eV/Å^3": (STRESS, 1.0),
    "GPa": (STRESS, 1 / GPA_PER_EV_A3),
    "MPa": (STRESS, 1e-3 / GPA_PER_EV_A3),
    "kbar": (STRESS, 0.1 / GPA_PER_EV_A3),
    "Ha/bohr^3": (STRESS, HARTREE_EV / BOHR_A**3),
}


@cache
def normalise(unit: str) -> str:
    """Returns the project's spelling of ``unit`` (``eV/A3`` and ``eV/Angstrom^3`` → ``eV/Å^3``)."""
    text = unit.strip().replace("**", "^").replace("³", "^3").replace("kBar", "kbar")
    for name in ("Angstrom", "angstrom", "Ang", "ang"):
        text = text.replace(name, "Å")
    head, slash, tail = text.partition("/")
    tail = tail.replace("A", "Å") if slash else tail
    text = head + slash + tail
    return text.replace("Å3", "Å^3").replace("bohr3", "bohr^3")


def dimension(unit: str) -> str:
    """Returns the canonical unit of what ``unit`` measures; empty for a unit that is not known."""
    return _FACTORS.get(normalise(unit), ("", 0.0))[0]


@cache
def factor(unit: str, to: str) -> float:
    """Returns the number that turns a value in ``unit`` into one in ``to``.

    Raises:
        UnitError: If either unit is unknown or their dimensions differ.
    """
    source, target = normalise(unit), normalise(to)
    if source == target:
        return 1.0
    for name in (source, target):
        if name not in _FACTORS:
            raise UnitError(f"unknown unit {name!r}; {closest(name, _FACTORS)}")
    (source_dimension, source_factor), (target_dimension, target_factor) = (
        _FACTORS[source],
        _FACTORS[target],
    )
    if source_dimension != target_dimension:
        raise UnitError(f"cannot convert {unit!r} to {to!r}: they measure different quantities")
    return source_factor / target_factor
