"""Energies against compositions: are they totals, and of one scheme?

The energy of a crystal is, to a few tenths of an eV per atom, a sum over its atoms. So E/N follows
from the shares of the elements, while E of cells of different sizes does not.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from epitaxy.data.physics.check import Check
from epitaxy.data.physics.frames import Frame

MIN_FAMILIES = 8
SIZE_SPREAD = 0.2
"""Standard deviation of log N below which sizes tell nothing."""
BETTER = 3.0
"""Factor by which another power of N must fit better to contradict, which it does by 5 to 30."""
FITS = 0.3
"""Misfit over energy that counts as a fit."""
MISSED = 0.25
"""Misfit of E/N that is no fit; totals miss by 0.005 to 0.18."""
MANY = 100
"""Families from which on the scatter is judged."""
SCATTER_LOW, SCATTER_HIGH = 0.03, 5.0
"""eV per atom. Compositions miss by 0.3 to 0.6 in sets of many inorganic crystals, by up to 3 if
these are heated and compressed: chemistry and pressure do not work on another scale."""
DIVERSE, SCATTER_DIVERSE = 20, 0.12
"""Elements from which on compositions miss by at least so much, eV per atom; the sets looked at
miss by 0.36 to 3."""
POSITIVE = 1.0
"""eV per atom that no set of crystals lies above in the median, unless its sign is wrong."""
APART, SHARE, SPLIT = 1.0, 0.2, 0.72
"""Two heaps of misfits: at least so far apart (eV per atom), the smaller with this share of the
crystals, and so much of the variance between them (0.64 in a normal distribution; 0.49 to 0.63 in
clean sets, 0.76 to 0.86 where half the totals were replaced by formation energies)."""
_RIDGE = 1e-3


def size_check(families: Sequence[Sequence[Frame]]) -> Check | None:
    """Returns whether energies grow with the cell; ``None`` without energies."""
    energies, counts = _family_energies(families)
    if not len(energies):
        return None
    atoms = counts.sum(1)
    per_atom = energies / atoms
    numbers: dict[str, float | int | str] = {
        "families": len(energies),
        "median_per_atom_ev": float(f"{np.median(per_atom):.4g}"),
        "lowest_per_atom_ev": float(f"{per_atom.min():.4g}"),
        "highest_per_atom_ev": float(f"{per_atom.max():.4g}"),
    }
    about = (
        f"E/N is {np.median(per_atom):.3g} eV (median; {per_atom.min():.3g} to "
        f"{per_atom.max():.3g}) for {len(energies)} crystals"
    )
    spread = float(np.std(np.log(atoms)))
    if len(energies) < MIN_FAMILIES or spread < SIZE_SPREAD:
        text = f"Cells differ too little in size to tell totals from energies per atom: {about}."
        return Check("energy_size", "undetermined", text, numbers)
    misfits = [_relative_misfit(energies / atoms**power, counts) for power in range(3)]
    numbers |= {f"misfit_power_{power}": round(value, 4) for power, value in enumerate(misfits)}
    best = int(np.argmin(misfits))
    wrong = misfits[1] > max(BETTER * misfits[best], MISSED)
    if misfits[best] > FITS or (best != 1 and not wrong):
        text = f"Compositions explain the energies too badly to judge their sizes: {about}."
        return Check("energy_size", "undetermined", text, numbers)
    if best == 1:
        text = f"Energies are totals: they grow with the cell, and {about}."
        return Check("energy_size", "confirmed", text, numbers)
    cause = (
        "they look like eV per atom: multiply by the number of atoms (declare per atom)"
        if best == 0
        else "they grow with the square of the cell, as totals taken for per-atom values do: "
        "declare them as totals"
    )
    text = (
        f"Energies are no totals: {cause}. Compositions miss E/N by {misfits[1]:.0%}, "
        f"but {'E' if best == 0 else 'E/N²'} by {misfits[best]:.0%}, in {len(energies)} crystals."
    )
    return Check("energy_size", "contradicted", text, numbers)


def scatter_check(families: Sequence[Sequence[Frame]]) -> Check | None:
    """Returns whether energies are on the scale of chemistry; ``None`` if crystals are too few."""
    energies, counts = _family_energies(families)
    if len(energies) < MANY:
        return None
    miss = _misfit(energies / counts.sum(1), counts)
    scatter = float(np.median(np.abs(miss)))
    numbers: dict[str, float | int | str] = {
        "families": len(energies),
        "median_misfit_ev_per_atom": float(f"{scatter:.3g}"),
    }
    about = (
        f"compositions of {len(energies)} crystals miss E/N by {scatter:.2g} eV (median; 0.3 to "
        "0.6 is usual)"
    )
    if np.median(energies / counts.sum(1)) > POSITIVE:
        text = (
            "Energies are positive, as no bound crystal's are against free atoms or electrons: "
            "multiply by -1 on import, or declare what they are relative to."
        )
        return Check("energy_scale", "suspicious", text, numbers)
    low = SCATTER_DIVERSE if counts.shape[1] >= DIVERSE else SCATTER_LOW
    if low <= scatter <= SCATTER_HIGH:
        return Check("energy_scale", "confirmed", f"Energies are in eV: {about}.", numbers)
    cause = (
        "Ha or Ry taken for eV (declare unit: Ha), or ten times too small"
        if scatter < low
        else "kcal/mol, kJ/mol or meV taken for eV (declare the unit)"
    )
    text = f"Energies are not on the scale of chemistry: {about}. They may be {cause}."
    return Check("energy_scale", "suspicious", text, numbers)


def heaps_check(families: Sequence[Sequence[Frame]]) -> Check | None:
    """Returns a check if energies of many crystals fall into two heaps, else ``None``."""
    energies, counts = _family_energies(families)
    if len(energies) < MANY // 2:
        return None
    miss = np.sort(_misfit(energies / counts.sum(1), counts))
    split, gap, share = _split(miss)
    if split < SPLIT or gap < APART or share < SHARE:
        return None
    text = (
        f"Energies fall into two heaps {gap:.2g} eV per atom apart, {share:.0%} of "
        f"{len(miss)} crystals in the smaller: totals may be mixed with formation energies, or two "
        "functionals with each other. Import them apart, each with its scheme."
    )
    numbers: dict[str, float | int | str] = {
        "crystals": len(miss),
        "gap_ev_per_atom": round(gap, 3),
        "smaller_share": round(share, 3),
        "variance_between": round(split, 3),
    }
    return Check("energy_heaps", "suspicious", text, numbers)


def _split(rising: np.ndarray) -> tuple[float, float, float]:
    """Returns the share of variance between the best two heaps, their distance, the smaller one."""
    count = len(rising)
    sums = np.cumsum(rising)
    below = np.arange(1, count)
    gaps = (sums[-1] - sums[:-1]) / (count - below) - sums[:-1] / below
    between = below * (count - below) / count**2 * gaps**2
    best = int(between.argmax())
    variance = max(float(rising.var()), 1e-300)
    smaller = min(best + 1, count - best - 1) / count
    return float(between[best] / variance), float(gaps[best]), smaller


def _family_energies(
    families: Sequence[Sequence[Frame]],
) -> tuple[Float64[np.ndarray, " families"], Float64[np.ndarray, "families elements"]]:
    """Returns the median energy and the atoms of every family, for the elements that occur."""
    known = [family for family in families if family[0].energy is not None]
    if not known:
        return np.zeros(0), np.zeros((0, 0))
    energies = np.array(
        [np.median([f.energy for f in family if f.energy is not None]) for family in known]
    )
    counts = np.array(
        [np.bincount(family[0].numbers, minlength=119) for family in known], np.float64
    )
    return energies, counts[:, counts.any(0)]


def _relative_misfit(values: np.ndarray, counts: np.ndarray) -> float:
    size = float(np.median(np.abs(values)))
    if not size > 0:
        return float("inf")
    # Every size of cell is heard: where most have one size, any power of N would fit.
    sizes = counts.sum(1)
    miss = np.abs(_misfit(values, counts))
    by_size = [np.median(miss[sizes == atoms]) for atoms in np.unique(sizes)]
    return float(np.median(by_size)) / size


def _misfit(
    values: Float64[np.ndarray, " families"], counts: Float64[np.ndarray, "families elements"]
) -> Float64[np.ndarray, " families"]:
    """Returns by how much the shares of elements miss ``values``, each left out of its own fit."""
    shares = counts / counts.sum(1, keepdims=True)
    weight = np.ones(len(values))
    miss = np.zeros(len(values))
    centre = np.median(values)
    for _ in range(8):
        weighted = shares * weight[:, None]
        inverse = np.linalg.inv(shares.T @ weighted + _RIDGE * np.eye(shares.shape[1]))
        fit = shares @ (inverse @ (weighted.T @ (values - centre)))
        leverage = np.einsum("fe,eg,fg->f", shares, inverse, weighted)
        miss = (values - centre - fit) / np.maximum(1 - leverage, 0.05)
        scale = max(float(np.median(np.abs(miss))), 1e-12)
        weight = 1 / np.maximum(np.abs(miss) / (2 * scale), 1.0)
    return miss
