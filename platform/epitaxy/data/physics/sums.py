"""What holds frame by frame: no net force, a symmetric stress."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from epitaxy.data.physics.check import Check
from epitaxy.data.physics.frames import Frame

MAX_FRAMES = 5000
NET_FORCE = 0.2
"""Median of |ΣF| / (√N F_rms): 1 for independent random forces, below 0.05 in calculations."""
SMALL_FORCE = 1e-3
"""eV/Å. Forces below are what is left of nothing."""
ASYMMETRY = 0.02


def force_sum_check(families: Sequence[Sequence[Frame]]) -> Check | None:
    """Returns whether forces add up to nothing; ``None`` without forces on two atoms."""
    ratios = []
    for frame in _spread(families):
        if frame.forces is None or frame.num_atoms < 2:
            continue
        forces = frame.forces.astype(np.float64)
        size = float(np.sqrt((forces**2).sum()))
        if size > SMALL_FORCE * np.sqrt(frame.num_atoms):
            ratios.append(float(np.linalg.norm(forces.sum(0))) / size)
    if not ratios:
        return None
    median, high = float(np.median(ratios)), float(np.quantile(ratios, 0.95))
    numbers = {
        "frames": len(ratios),
        "median_net_force": float(f"{median:.3g}"),
        "p95_net_force": float(f"{high:.3g}"),
    }
    about = (
        f"|ΣF| is {median:.2g} of what random forces give (median of {len(ratios)} frames; 95 % are"
        f" below {high:.2g})"
    )
    if median <= NET_FORCE:
        return Check("force_sum", "confirmed", f"Forces add up to nothing: {about}.", numbers)
    text = (
        f"Forces do not add up to nothing: {about}. Atoms may be missing, in another order, fixed, "
        "or in an external field."
    )
    return Check("force_sum", "suspicious", text, numbers)


def symmetry_check(families: Sequence[Sequence[Frame]]) -> Check | None:
    """Returns whether stresses are symmetric; ``None`` without stresses."""
    stresses = [frame.stress for frame in _spread(families) if frame.stress is not None]
    if not stresses:
        return None
    values = np.array(stresses)
    skew = np.linalg.norm(values - values.transpose(0, 2, 1), axis=(1, 2)) / 2
    relative = skew / np.maximum(np.linalg.norm(values, axis=(1, 2)), 1e-6)
    bad = int((relative > ASYMMETRY).sum())
    numbers = {"frames": len(values), "asymmetric_frames": bad}
    if bad <= 0.01 * len(values):
        text = f"The stress is symmetric in {len(values) - bad} of {len(values)} frames."
        return Check("stress_symmetry", "confirmed", text, numbers)
    text = (
        f"The stress is not symmetric in {bad} of {len(values)} frames: its nine numbers may be in "
        "another layout, or belong to a first Piola-Kirchhoff stress or a rotated cell."
    )
    return Check("stress_symmetry", "suspicious", text, numbers)


def _spread(families: Sequence[Sequence[Frame]]) -> list[Frame]:
    frames = [frame for family in families for frame in family]
    return frames[:: max(1, -(-len(frames) // MAX_FRAMES))]
