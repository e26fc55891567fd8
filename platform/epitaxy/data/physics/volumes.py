"""Volumes of atoms, learnt from a set of many materials, and what they say of the stress.

A crystal larger than the sum of its atoms' usual volumes is more often stretched than compressed.
One crystal says little (usual volumes are good to 10 or 20 %), some hundred do.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64
from scipy.stats import spearmanr

from epitaxy.data.physics.check import Check
from epitaxy.data.physics.frames import Frame
from epitaxy.data.physics.wall import RADII

MIN_MATERIALS = 200
TOP_SHARE = 0.2
"""Share of crystals with the largest pressure, of either sign, that is looked at."""
CLEAR = 4.0
_RIDGE = 2.5


def volume_check(families: Sequence[Sequence[Frame]]) -> Check | None:
    """Returns whether stretched crystals are under tension; ``None`` if materials are too few."""
    frames = [family[0] for family in families if family[0].stress is not None]
    if len(frames) < MIN_MATERIALS:
        return None
    excess = log_excess(frames)
    trace = np.array([np.trace(frame.stress) / 3 for frame in frames if frame.stress is not None])
    # Against their median: a set that is compressed as a whole has its usual volumes compressed.
    trace = trace - np.median(trace)
    top = np.abs(trace) >= np.quantile(np.abs(trace), 1 - TOP_SHARE)
    rank = float(spearmanr(excess[top], trace[top]).statistic)
    rank = 0.0 if np.isnan(rank) else rank
    clear = rank * float(np.sqrt(top.sum() - 1))
    numbers = {
        "materials": int(top.sum()),
        "rank_correlation": round(rank, 3),
        "standard_errors": round(clear, 1),
    }
    about = (
        f"rank correlation {rank:.2f} ({clear:.1f} standard errors) between stress and excess "
        f"volume of the {top.sum()} crystals with the largest pressure"
    )
    if abs(clear) < CLEAR:
        text = f"The sign of the stress does not show in the volumes: {about}."
        return Check("stress_volume", "undetermined", text, numbers)
    if rank > 0:
        text = f"Stretched crystals are under tension: {about}."
        return Check("stress_volume", "confirmed", text, numbers)
    text = (
        f"Stretched crystals have the most negative stress: {about}. It looks as if compression "
        "were positive: declare sign: compression_positive."
    )
    return Check("stress_volume", "suspicious", text, numbers)


def log_excess(frames: Sequence[Frame]) -> Float64[np.ndarray, " frames"]:
    """Returns log(V/V'), V' the sum of element volumes that fit most of ``frames`` (robustly)."""
    counts = np.array([np.bincount(frame.numbers, minlength=119) for frame in frames], np.float64)
    volumes = np.array([frame.volume for frame in frames])
    usual = RADII**3
    usual *= np.median(volumes / (counts @ usual))
    for _ in range(20):
        shares = counts * usual
        expected = shares.sum(1)
        shares /= expected[:, None]
        miss = volumes / expected - 1
        weight = 1 / np.maximum(np.abs(miss), 0.05)
        normal = shares.T @ (shares * weight[:, None]) + _RIDGE * np.eye(len(usual))
        step = np.linalg.solve(normal, shares.T @ (miss * weight))
        usual = usual * np.clip(1 + step, 0.7, 1.4)
    return np.log(volumes / (counts @ usual))
