"""Learning-rate factor as a function of the fraction of records consumed."""

from __future__ import annotations

import math

from epitaxy.train.settings import ScheduleSettings

ONE_CYCLE_START = 1 / 25
"""Of the peak; with ``ONE_CYCLE_END`` the defaults of torch's OneCycleLR (Smith & Topin 2018)."""
ONE_CYCLE_END = 1e-4 / 25


def factor(settings: ScheduleSettings, progress: float) -> float:
    """Returns the multiplier of the peak learning rate.

    Args:
        settings: Shape of the curve.
        progress: Fraction of the run's records consumed once the step is done, in (0, 1]; so
            neither the first nor the last step is wasted on a rate of zero.
    """
    if progress < settings.warmup:
        ramp = progress / settings.warmup
        if settings.name == "one_cycle":
            return _cosine(ONE_CYCLE_START, 1.0, ramp)
        return ramp
    rest = (progress - settings.warmup) / max(1.0 - settings.warmup, 1e-12)
    if settings.name == "cosine":
        return _cosine(1.0, settings.final, rest)
    if settings.name == "one_cycle":
        return _cosine(1.0, ONE_CYCLE_END, rest)
    if settings.name == "multi_step":
        passed = sum(progress > milestone for milestone in settings.milestones)
        return float(settings.gamma**passed)
    return 1.0


def _cosine(start: float, end: float, fraction: float) -> float:
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * min(fraction, 1.0)))
