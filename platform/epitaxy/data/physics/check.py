"""What a physics check says, and the mistakes it knows by their factor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from epitaxy.units import BOHR_A, GPA_PER_EV_A3, HARTREE_EV, KCAL_MOL_EV, KJ_MOL_EV

Verdict = Literal["confirmed", "undetermined", "suspicious", "contradicted"]


@dataclass(frozen=True)
class Check:
    """One question to the labels of a data set and what the numbers answer.

    Attributes:
        name: Of the check, e.g. ``stress_work``.
        verdict: ``contradicted`` only on decisive evidence, ``suspicious`` on soft evidence against
            the declaration, ``confirmed`` if the numbers speak for it, ``undetermined`` if they say
            nothing.
        statement: The evidence in a sentence or two; if wrong, the likely cause and the remedy.
        evidence: The numbers, JSON-ready.
    """

    name: str
    verdict: Verdict
    statement: str
    evidence: Mapping[str, float | int | str]


@dataclass(frozen=True)
class Mistake:
    """A known way to declare a label wrongly.

    Attributes:
        factor: The imported value over the true one.
        cause: What the label looks like.
        remedy: What to declare.
    """

    factor: float
    cause: str
    remedy: str


_UNSIGNED = {
    "stress": (
        (10 * GPA_PER_EV_A3, "kbar taken for eV/Å^3", "declare unit: kbar"),
        (GPA_PER_EV_A3, "GPa taken for eV/Å^3", "declare unit: GPa"),
        (1e3 * GPA_PER_EV_A3, "MPa taken for eV/Å^3", "declare unit: MPa"),
        (0.1 / GPA_PER_EV_A3, "eV/Å^3 taken for kbar", "declare unit: eV/Å^3"),
        (1 / GPA_PER_EV_A3, "eV/Å^3 taken for GPa", "declare unit: eV/Å^3"),
        (10.0, "ten times too large, as kbar taken for GPa", "declare unit: kbar instead of GPa"),
        (0.1, "ten times too small, as GPa taken for kbar", "declare unit: GPa instead of kbar"),
        (BOHR_A**3 / HARTREE_EV, "Ha/bohr^3 taken for eV/Å^3", "declare unit: Ha/bohr^3"),
        (2 * BOHR_A**3 / HARTREE_EV, "Ry/bohr^3 taken for eV/Å^3", "convert from Ry/bohr^3"),
        (HARTREE_EV / BOHR_A**3, "eV/Å^3 taken for Ha/bohr^3", "declare unit: eV/Å^3"),
    ),
    "forces": (
        (BOHR_A, "eV/bohr taken for eV/Å", "divide by 0.529177 (Å per bohr) on import"),
        (1 / BOHR_A, "too large by Å per bohr, once more converted than due", "do not convert"),
        (BOHR_A / HARTREE_EV, "Ha/bohr taken for eV/Å", "declare unit: Ha/bohr"),
        (2 * BOHR_A / HARTREE_EV, "Ry/bohr taken for eV/Å", "declare unit: Ry/bohr"),
        (HARTREE_EV / BOHR_A, "eV/Å taken for Ha/bohr", "declare unit: eV/Å"),
        (0.5 * HARTREE_EV / BOHR_A, "eV/Å taken for Ry/bohr", "declare unit: eV/Å"),
        (1 / HARTREE_EV, "Ha/Å taken for eV/Å", "multiply by 27.2114 (eV per Ha) on import"),
        (1 / KCAL_MOL_EV, "kcal/mol/Å taken for eV/Å", "declare unit: kcal/mol/Å"),
        (KCAL_MOL_EV, "eV/Å taken for kcal/mol/Å", "declare unit: eV/Å"),
        (1e3, "meV/Å taken for eV/Å", "declare unit: meV/Å"),
        (1e-3, "eV/Å taken for meV/Å", "declare unit: eV/Å"),
        (10.0, "ten times too large, as eV/nm taken for eV/Å", "divide by 10 on import"),
        (0.1, "ten times too small", "multiply by 10 on import"),
    ),
    "energy": (
        (1 / HARTREE_EV, "Ha taken for eV", "declare unit: Ha"),
        (2 / HARTREE_EV, "Ry taken for eV", "declare unit: Ry"),
        (HARTREE_EV, "eV taken for Ha", "declare unit: eV"),
        (HARTREE_EV / 2, "eV taken for Ry", "declare unit: eV"),
        (1 / KCAL_MOL_EV, "kcal/mol taken for eV", "declare unit: kcal/mol"),
        (KCAL_MOL_EV, "eV taken for kcal/mol", "declare unit: eV"),
        (1 / KJ_MOL_EV, "kJ/mol taken for eV", "declare unit: kJ/mol"),
        (KJ_MOL_EV, "eV taken for kJ/mol", "declare unit: eV"),
        (1e3, "meV taken for eV", "declare unit: meV"),
        (1e-3, "eV taken for meV", "declare unit: eV"),
        (10.0, "ten times too large", "divide by 10 on import"),
        (0.1, "ten times too small", "multiply by 10 on import"),
    ),
}
_SIGN_REMEDY = {
    "stress": "declare sign: compression_positive (or tension_positive if that is what you did)",
    "forces": "they look like gradients of the energy: multiply by -1 on import",
    "energy": "multiply by -1 on import",
}


def mistakes(label: str) -> list[Mistake]:
    """Returns the known mistakes of ``energy``, ``forces`` or ``stress``, signs included."""
    found = [Mistake(-1.0, "with the opposite sign", _SIGN_REMEDY[label])]
    for factor, cause, remedy in _UNSIGNED[label]:
        found.append(Mistake(factor, cause, remedy))
        both = f"{remedy}, and {_SIGN_REMEDY[label]}"
        found.append(Mistake(-factor, f"{cause}, with the opposite sign", both))
    return found


def closest_mistake(label: str, factor: float, tolerance: float = 0.3) -> Mistake | None:
    """Returns the known mistake whose factor is nearest, within ``tolerance`` (relative)."""
    fitting = [m for m in mistakes(label) if abs(factor / m.factor - 1) <= tolerance]
    return min(fitting, key=lambda m: abs(factor / m.factor - 1), default=None)
