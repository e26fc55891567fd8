"""What the work of stress and forces says of energy, forces and stress.

A label is *heard* if leaving its work out leaves at least ``HEARD`` more of its pairs unexplained.
It is contradicted only if it is heard, the declared meaning misses at least ``DECISIVE`` more pairs
than another one, which in turn explains at least ``EXPLAINED`` of them, and the slope is off by
more than ``NEAR`` or negative: anharmonic crystals bend slopes by up to 1.35, the mistakes that
people make are factors of 1.9 and more.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from epitaxy.data.physics.check import Check, closest_mistake
from epitaxy.data.physics.orders import describe
from epitaxy.data.physics.work import NEAR, Hypothesis, Misfit, WorkFit

MIN_PAIRS, MIN_FRAMES = 6, 4
HEARD = 0.15
DECISIVE = 0.2
EXPLAINED = 0.25
WHAT = {"stress": "stress", "forces": "forces", "energy": "energies"}


def work_checks(fit: WorkFit, has_stress: bool, has_forces: bool) -> list[Check]:
    """Returns one check for each label that takes part."""
    names = ["energy", *(["forces"] if has_forces else []), *(["stress"] if has_stress else [])]
    if fit.count < MIN_PAIRS or fit.frames < MIN_FRAMES:
        return [_too_few(name, fit) for name in names]
    blamed = blame(fit)
    return [_check(name, fit, blamed) for name in names]


def blame(fit: WorkFit) -> dict[str, str]:
    """Returns the labels that are decisively wrong with what they look like and what to do."""
    gain = _gain(fit.declared, fit.best)
    if not gain or 1 - fit.best.both < EXPLAINED:
        return {}
    found: dict[str, str] = {}
    slopes = {name: getattr(fit, name) for name in ("stress", "forces") if heard(fit, name)}
    off = {name: value for name, value in slopes.items() if not 1 / NEAR <= value <= NEAR}
    if fit.guess.energy != 1 or fit.guess.atoms_power:
        found["energy"] = _energy_cause(fit.guess)
    elif len(off) == 2 and 0.75 < off["stress"] / off["forces"] < 1.33:
        factor = math.copysign(math.sqrt(abs(off["stress"] * off["forces"])), off["stress"])
        return {"energy": _named("energy", factor)}
    for name, value in off.items():
        if getattr(gain, name) >= DECISIVE:
            virial = name == "stress" and fit.guess.volume_power
            found[name] = _named(name, 1 / value) if not virial else _virial(value)
    if fit.guess.order and heard(fit, "stress"):
        order = f"{describe(fit.guess.order)}; declare the order in which the file lists them"
        found["stress"] = "; ".join(filter(None, [found.get("stress", ""), order]))
    elif fit.guess.volume_power and heard(fit, "stress") and "stress" not in found:
        found["stress"] = _virial(fit.stress)
    return found


def heard(fit: WorkFit, name: str) -> bool:
    """Returns whether the pairs say anything about ``stress`` or ``forces``."""
    without, best = getattr(fit, f"without_{name}"), getattr(fit.best, name)
    return bool(without - best >= HEARD and math.isfinite(getattr(fit, name)))


def _gain(declared: Misfit, best: Misfit) -> Misfit | None:
    """Returns how many more pairs the best hypothesis explains; ``None`` if not decisively more."""
    gains = Misfit(*np.nan_to_num([declared.stress - best.stress, declared.forces - best.forces]))
    return gains if max(gains.stress, gains.forces) >= DECISIVE else None


def _energy_cause(guess: Hypothesis) -> str:
    if guess.atoms_power == 1:
        return "energies look like eV per atom; multiply by the number of atoms (declare per atom)"
    if guess.atoms_power == -1:
        return "energies look like totals taken for per-atom values; declare them as totals"
    return _named("energy", 1 / guess.energy)


def _virial(slope: float) -> str:
    sign = "" if slope > 0 else ", with the opposite sign"
    return f"it looks like the virial in eV, not divided by the volume{sign}; divide by the volume"


def _named(label: str, factor: float) -> str:
    mistake = closest_mistake(label, factor)
    if mistake is None:
        return f"values are {factor:.3g} times what they should be, which is no known unit"
    return f"values are {factor:.3g} times what they should be: {mistake.cause}; {mistake.remedy}"


def _check(name: str, fit: WorkFit, blamed: dict[str, str]) -> Check:
    where = f"in {fit.count} pairs of close frames of {fit.families} crystals"
    numbers = evidence(fit)
    if name in blamed:
        rivals = _rivals(name, fit)
        text = f"{WHAT[name].capitalize()} and energy differences disagree {where}: {blamed[name]}"
        if name == "energy":
            text = (
                f"Energy differences disagree with the work of the labels {where}: {blamed[name]}"
            )
        return Check(f"{name}_work", "contradicted", f"{text}.{rivals}", numbers)
    if name == "energy":
        if blamed or not (heard(fit, "stress") or heard(fit, "forces")):
            return Check("energy_work", "undetermined", _silent(name, where), numbers)
        good = _good(fit, "stress") or _good(fit, "forces")
        text = f"Energy differences equal the work of stress and forces {where}."
        if good:
            return Check("energy_work", "confirmed", text, numbers)
        return Check("energy_work", "undetermined", _silent(name, where), numbers)
    if not heard(fit, name):
        return Check(f"{name}_work", "undetermined", _silent(name, where), numbers)
    slope, error = getattr(fit, name), getattr(fit, f"{name}_error")
    text = f"The work of the {WHAT[name]} has slope {slope:.3g} ± {error:.2g} {where}, 1 expected"
    if _good(fit, name):
        return Check(f"{name}_work", "confirmed", f"{text}.", numbers)
    if not 1 / NEAR <= slope <= NEAR and 1 - getattr(fit.best, name) >= EXPLAINED:
        cause = _named(name, 1 / slope)
        return Check(f"{name}_work", "suspicious", f"{text}; {cause}.", numbers)
    return Check(f"{name}_work", "undetermined", f"{text}; too few pairs agree.", numbers)


def _good(fit: WorkFit, name: str) -> bool:
    slope, best = getattr(fit, name), getattr(fit.best, name)
    near = 1 / NEAR <= slope <= NEAR and heard(fit, name)
    return bool(near and 1 - best >= EXPLAINED and getattr(fit.declared, name) - best < DECISIVE)


def _rivals(name: str, fit: WorkFit) -> str:
    """Returns what else would explain the numbers as well."""
    others = [other for other in ("stress", "forces") if heard(fit, other)]
    # Energy and one work: only their ratio is known.
    if name == "energy" and len(others) == 1 and not fit.guess.atoms_power:
        cause = _named(others[0], fit.guess.energy / getattr(fit, others[0]))
        return f" If the energies are right, it is the {WHAT[others[0]]}: {cause}."
    if others != [name]:
        return ""
    if closest_mistake("energy", getattr(fit, name)) is None:
        return ""
    cause = _named("energy", getattr(fit, name))
    return f" If the {WHAT[name]} are right, it is the energies: {cause}."


def _silent(name: str, where: str) -> str:
    return f"The {WHAT[name]} cannot be judged by work: too little of it {where}."


def _too_few(name: str, fit: WorkFit) -> Check:
    return Check(
        f"{name}_work",
        "undetermined",
        f"The {WHAT[name]} cannot be judged by work: only {fit.count} pairs of close frames.",
        {"pairs": fit.count, "crystals": fit.families},
    )


def evidence(fit: WorkFit) -> dict[str, Any]:
    """Returns the numbers of ``fit``, JSON-ready."""
    numbers = {
        "stress_slope": fit.stress,
        "stress_slope_error": fit.stress_error,
        "forces_slope": fit.forces,
        "forces_slope_error": fit.forces_error,
        "stress_pairs_missed_as_declared": fit.declared.stress,
        "stress_pairs_missed_at_best": fit.best.stress,
        "forces_pairs_missed_as_declared": fit.declared.forces,
        "forces_pairs_missed_at_best": fit.best.forces,
    }
    rounded = {k: float(f"{v:.4g}") for k, v in numbers.items() if math.isfinite(v)}
    return {"pairs": fit.count, "crystals": fit.families, "frames": fit.frames, **rounded}
