"""Energy of each element, fitted so that a network need only learn the binding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

HUBER_TUNING = 1.345
"""Residuals beyond this many robust standard deviations are down-weighted (Huber 1964)."""
NORMAL_MAD = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""
RIDGE = 1e-6
MAX_ITERATIONS = 50


@dataclass(frozen=True)
class ElementReference:
    """Linear model of the energy per atom.

    Attributes:
        energies: Atomic number of each element that occurred to its energy, eV/atom.
        other: Energy of all other elements, eV/atom.
        spread: Robust standard deviation of the residual energies per atom, eV/atom.
    """

    energies: dict[int, float]
    other: float
    spread: float


def fit_element_reference(
    composition: Int64[np.ndarray, "records elements"], energies: Float64[np.ndarray, " records"]
) -> ElementReference:
    """Returns the energy that each element contributes to the total energies.

    Robust least squares of the energies per atom on the element fractions: iteratively reweighted
    with Huber's weights, so single unphysical frames do not move the reference. Elements that
    never occurred get the median energy per atom, and a tiny ridge pulls undetermined
    combinations (only one stoichiometry in the data) towards it.

    Args:
        composition: Count of each element per record, column = atomic number.
        energies: Total energy per record, eV, all finite.
    """
    num_atoms = composition.sum(1)
    per_atom = energies / num_atoms
    fractions = composition / num_atoms[:, None]
    occurred = composition.any(0)
    center = float(np.median(per_atom))
    design, target = fractions[:, occurred], per_atom - center
    solution = np.zeros(design.shape[1])
    weights = np.ones(len(target))
    for _ in range(MAX_ITERATIONS):
        normal = design.T @ (weights[:, None] * design) + RIDGE * np.eye(design.shape[1])
        updated = np.linalg.solve(normal, design.T @ (weights * target))
        converged = np.allclose(updated, solution, rtol=0, atol=1e-7)
        solution = updated
        residual = np.abs(target - design @ solution)
        spread = robust_spread(residual)
        if converged or spread == 0.0:
            break
        weights = np.minimum(1.0, HUBER_TUNING * spread / np.maximum(residual, 1e-300))
    elements = np.flatnonzero(occurred)
    fitted = {int(z): center + float(e) for z, e in zip(elements, solution, strict=True)}
    return ElementReference(fitted, center, robust_spread(target - design @ solution))


def robust_spread(residual: Float64[np.ndarray, " records"]) -> float:
    """Returns the standard deviation that a normal distribution with this median of |r| has."""
    return float(NORMAL_MAD * np.median(np.abs(residual)))
