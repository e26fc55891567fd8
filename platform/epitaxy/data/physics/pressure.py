"""Signs and sizes without close frames: forces and stress against the wall, stress and forces."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64
from scipy.stats import rankdata

from epitaxy.data.physics.check import Check, Verdict
from epitaxy.data.physics.frames import Frame
from epitaxy.data.physics.shear import significance
from epitaxy.data.physics.wall import Walls
from epitaxy.units import GPA_PER_EV_A3

TOP_SHARE, TOP_FRAMES = 0.2, 100
"""Frames with the largest forces that are looked at: this share, but at least so many."""
INDEPENDENT = 30
"""Frames of a family count as this many independent ones at most."""
CLEAR_DIRECTION, CLEAR = 3.0, 4.0
"""Standard errors that a sign must stand out by."""
OPPOSED = 0.3
"""Mean cosine or rank correlation beyond which the wrong sign is more than suspicious; on real
sets of every kind both are positive wherever they are clear."""
MIN_FRAMES = 8

STRENGTH = 40.0
"""GPa. Hydrostatic tension beyond the ideal strength of nearly all crystals."""

USUAL_RATIO = 0.6
"""Median of V|σ'| / (√N F_rms (V/N)^⅓), σ' the deviator: 0.50 to 0.67 on every set of many
materials that was looked at, relaxed, heated or compressed. Stresses and forces of a crystal are
made of the same pair forces, which add up at random in both."""
DIVERSE = 20
"""Sets of elements below which symmetry may decide: strained cells without forces, surfaces."""
RATIO_SUSPICIOUS, RATIO_CONTRADICTED = 5.0, 40.0
"""Factors off the usual ratio. The smallest known mistakes are 10 and 160."""


def direction_check(walls: Walls) -> Check | None:
    """Returns whether forces push atoms apart that are too close; ``None`` without forces."""
    known = np.flatnonzero(np.isfinite(walls.cosine) & (walls.force > 0))
    if not len(known):
        return None
    count = max(round(TOP_SHARE * len(known)), min(TOP_FRAMES, len(known)))
    top = known[np.argsort(-walls.force[known], kind="stable")[:count]]
    weight = family_weights(walls.family[top])
    mean = float(np.average(walls.cosine[top], weights=weight))
    clear = significance(walls.cosine[top], weight)
    numbers = {
        "frames": len(top),
        "mean_cosine": round(mean, 3),
        "standard_errors": round(clear, 1),
    }
    about = (
        f"{len(top)} frames with the largest forces: mean cosine {mean:.2f} ({clear:.1f} standard "
        "errors) with the repulsion between close atoms"
    )
    if len(top) < MIN_FRAMES or abs(clear) < CLEAR_DIRECTION:
        return Check(
            "forces_direction",
            "undetermined",
            f"Forces show no clear sign in the {about}.",
            numbers,
        )
    if clear > 0:
        return Check(
            "forces_direction", "confirmed", f"Forces push close atoms apart: {about}.", numbers
        )
    verdict: Verdict = "contradicted" if mean < -OPPOSED else "suspicious"
    text = (
        f"Forces pull close atoms together: {about}. They look like gradients of the energy: "
        "multiply by -1 on import."
    )
    return Check("forces_direction", verdict, text, numbers)


def pressure_check(walls: Walls) -> Check | None:
    """Returns whether crowded crystals are under pressure; ``None`` without stresses."""
    known = np.isfinite(walls.stress).all(axis=(1, 2))
    if not known.any():
        return None
    label = np.trace(walls.stress[known], axis1=1, axis2=2) / 3
    wall = np.trace(walls.wall[known], axis1=1, axis2=2) / 3
    weight = family_weights(walls.family[known])
    rank, clear = _rank_correlation(label, wall, weight)
    median = float(np.median(label) * GPA_PER_EV_A3)
    numbers = {
        "frames": int(known.sum()),
        "rank_correlation": round(rank, 3),
        "standard_errors": round(clear, 1),
        "median_trace_gpa": round(median, 4),
    }
    about = (
        f"rank correlation {rank:.2f} ({clear:.1f} standard errors) between the trace of the stress"
        f" and the crowding of atoms in {known.sum()} frames"
    )
    if known.sum() < MIN_FRAMES or abs(clear) < CLEAR or abs(rank) < OPPOSED:
        text = f"The sign of the stress does not show in the crowding of atoms: {about}."
        return Check("stress_pressure", "undetermined", text, numbers)
    if rank > 0:
        text = f"Crowded crystals have the most negative stress: {about}."
        return Check("stress_pressure", "confirmed", text, numbers)
    verdict: Verdict = "contradicted" if rank < -0.5 and clear < -1.5 * CLEAR else "suspicious"
    text = (
        f"Crowded crystals have the most positive stress: {about}. It looks as if compression were "
        "positive: declare sign: compression_positive."
    )
    return Check("stress_pressure", verdict, text, numbers)


def ratio_check(walls: Walls) -> Check | None:
    """Returns whether stress and forces are of one size; ``None`` unless both are labels."""
    known = np.isfinite(walls.stress).all(axis=(1, 2)) & (walls.force > 0)
    if not known.any():
        return None
    ratios = _ratios(walls, known)
    systems = len({walls.elements[row] for row in np.flatnonzero(known)})
    ratio = float(np.median(ratios))
    factor = ratio / USUAL_RATIO
    numbers = {
        "frames": int(known.sum()),
        "chemical_systems": systems,
        "median_ratio": float(f"{ratio:.4g}"),
        "usual_ratio": USUAL_RATIO,
    }
    about = f"V|σ'| / (√N F d) is {ratio:.3g} (median of {known.sum()} frames, usually 0.5 to 0.7)"
    off = max(factor, 1 / max(factor, 1e-300))
    if systems < DIVERSE:
        text = f"Sizes of stress and forces are compared on many materials only: {about}."
        return Check("stress_forces_ratio", "undetermined", text, numbers)
    if off < RATIO_SUSPICIOUS:
        text = f"Stress and forces are of one size: {about}."
        return Check(
            "stress_forces_ratio", "confirmed" if off < 3 else "undetermined", text, numbers
        )
    verdict: Verdict = "contradicted" if off > RATIO_CONTRADICTED else "suspicious"
    text = (
        f"Stress and forces are not of one size: {about}. The stress is about {factor:.2g} times "
        f"what the forces let expect{_guess(factor)}; or the forces are off by the inverse."
    )
    return Check("stress_forces_ratio", verdict, text, numbers)


def tension_check(families: Sequence[Sequence[Frame]]) -> Check | None:
    """Returns a check if crystals seem to bear more tension than any can, else ``None``."""
    traces = [np.trace(f.stress) / 3 for family in families for f in family if f.stress is not None]
    pressures = np.array(traces) * GPA_PER_EV_A3
    pulled, pressed = int((pressures > STRENGTH).sum()), int((pressures < -STRENGTH).sum())
    if pulled < MIN_FRAMES or pulled < 0.15 * (pulled + pressed):
        return None
    numbers: dict[str, float | int | str] = {
        "frames": len(pressures),
        "tension_beyond_40_gpa": pulled,
        "compression_beyond_40_gpa": pressed,
    }
    about = (
        f"{pulled} frames under a hydrostatic tension and {pressed} under a compression of more "
        f"than {STRENGTH:.0f} GPa; crystals come apart under such tension"
    )
    if pulled > 0.7 * (pulled + pressed):
        text = f"There are {about}: it looks as if compression were positive."
        return Check(
            "stress_strength",
            "contradicted",
            f"{text} Declare sign: compression_positive.",
            numbers,
        )
    text = (
        f"There are {about}: frames with different signs may be mixed, or stresses in kbar or GPa "
        "be taken for eV/Å^3."
    )
    return Check("stress_strength", "suspicious", text, numbers)


def family_weights(family: np.ndarray) -> Float64[np.ndarray, " frames"]:
    """Returns weights by which no family counts more than ``INDEPENDENT`` frames."""
    _, inverse, counts = np.unique(family, return_inverse=True, return_counts=True)
    return np.minimum(1.0, INDEPENDENT / counts)[inverse]


def _ratios(walls: Walls, known: np.ndarray) -> np.ndarray:
    stress = walls.stress[known]
    deviator = stress - np.trace(stress, axis1=1, axis2=2)[:, None, None] / 3 * np.eye(3)
    size = np.linalg.norm(deviator, axis=(1, 2))
    atoms, volume = walls.num_atoms[known], walls.volume[known]
    return volume * size / (np.sqrt(atoms) * walls.force[known] * np.cbrt(volume / atoms))


def _guess(factor: float) -> str:
    # Within a factor of 3 the units lie too far apart to be confused.
    for known, cause in (
        (10 * GPA_PER_EV_A3, "kbar taken for eV/Å^3: declare unit: kbar"),
        (GPA_PER_EV_A3, "GPa taken for eV/Å^3: declare unit: GPa"),
        (10.0, "kbar taken for GPa: declare unit: kbar"),
        (0.1, "GPa taken for kbar: declare unit: GPa"),
        (1 / GPA_PER_EV_A3, "eV/Å^3 taken for GPa: declare unit: eV/Å^3"),
        (0.1 / GPA_PER_EV_A3, "eV/Å^3 taken for kbar: declare unit: eV/Å^3"),
    ):
        if 1 / 3 < factor / known < 3:
            return f", as with {cause}"
    return ""


def _rank_correlation(
    label: np.ndarray, wall: np.ndarray, weight: np.ndarray
) -> tuple[float, float]:
    """Returns Spearman's correlation of weighted frames and its size in standard errors."""
    ranks = np.stack([rankdata(label), rankdata(wall)])
    ranks -= np.average(ranks, axis=1, weights=weight)[:, None]
    covariance = (ranks * weight) @ ranks.T
    size = np.sqrt(covariance[0, 0] * covariance[1, 1])
    rank = float(covariance[0, 1] / size) if size > 0 else 0.0
    return rank, rank * float(np.sqrt(max(weight.sum() - 1, 0)))
