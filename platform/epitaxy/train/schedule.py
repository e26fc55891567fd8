"""Learning rate: a function of the fraction of records consumed, and what plateaus made of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from epitaxy.train.settings import ScheduleSettings

ONE_CYCLE_START = 1 / 25
"""Of the peak; with ``ONE_CYCLE_END`` the defaults of torch's OneCycleLR (Smith & Topin 2018)."""
ONE_CYCLE_END = 1e-4 / 25


@dataclass(frozen=True)
class Plateau:
    """What the ``plateau`` schedule remembers of the validations so far.

    Attributes:
        reduction: Product of all reductions: factor on the learning rate.
        best: Lowest value that counted as an improvement.
        stale: Validations since then, or since the last reduction.
    """

    reduction: float = 1.0
    best: float | None = None
    stale: int = 0


def factor(settings: ScheduleSettings, progress: float, reduction: float = 1.0) -> float:
    """Returns the multiplier of the peak learning rate.

    Args:
        settings: Shape of the curve.
        progress: Fraction of the run's records consumed once the step is done, in (0, 1]; so
            neither the first nor the last step is wasted on a rate of zero.
        reduction: What plateaus have left of the rate; 1 for every other schedule.
    """
    if progress < settings.warmup:
        ramp = progress / settings.warmup
        if settings.name == "one_cycle":
            return _cosine(ONE_CYCLE_START, 1.0, ramp)
        return ramp * reduction
    rest = (progress - settings.warmup) / max(1.0 - settings.warmup, 1e-12)
    if settings.name == "cosine":
        return _cosine(1.0, settings.final, rest)
    if settings.name == "one_cycle":
        return _cosine(1.0, ONE_CYCLE_END, rest)
    if settings.name == "multi_step":
        passed = sum(progress > milestone for milestone in settings.milestones)
        return float(settings.gamma**passed)
    return reduction


def judge(settings: ScheduleSettings, plateau: Plateau, value: float, peak: float) -> Plateau:
    """Returns what the ``plateau`` schedule remembers after one more validation.

    A validation improves on the best if it is lower by more than ``threshold`` of it; after more
    than ``patience`` without improvement the rate is multiplied by ``gamma``, down to
    ``min_rate``. This is torch's ReduceLROnPlateau (mode min, relative threshold, no cooldown).

    # Differs from torch: a negative best is improved on by going further down, where torch's
    ``best * (1 - threshold)`` takes somewhat higher values for improvements, too.

    Args:
        settings: Of the schedule; any other than ``plateau`` remembers nothing.
        plateau: Memory of the validations before.
        value: Selection metric of this one; smaller is better.
        peak: Learning rate before any reduction.
    """
    if settings.name != "plateau":
        return plateau
    best = plateau.best
    if best is None or value < best - settings.threshold * abs(best):
        return Plateau(plateau.reduction, value)
    if plateau.stale < settings.patience:
        return Plateau(plateau.reduction, best, plateau.stale + 1)
    return Plateau(max(plateau.reduction * settings.gamma, settings.min_rate / peak), best)


def _cosine(start: float, end: float, fraction: float) -> float:
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * min(fraction, 1.0)))
