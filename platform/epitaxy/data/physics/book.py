"""Collects frames while a data set is read and answers questions about its labels at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from epitaxy.data.physics.check import Check
from epitaxy.data.physics.energies import heaps_check, scatter_check, size_check
from epitaxy.data.physics.frames import Frame, Sample
from epitaxy.data.physics.pairs import Pairs, find_pairs
from epitaxy.data.physics.pressure import (
    direction_check,
    pressure_check,
    ratio_check,
    tension_check,
)
from epitaxy.data.physics.schemes import jump_check, jumps, sign_check
from epitaxy.data.physics.shear import shear_check
from epitaxy.data.physics.sums import force_sum_check, symmetry_check
from epitaxy.data.physics.verdicts import MIN_PAIRS, blame, work_checks
from epitaxy.data.physics.volumes import volume_check
from epitaxy.data.physics.wall import build_walls
from epitaxy.data.physics.work import (
    AS_DECLARED,
    Hypothesis,
    WorkFit,
    family_weights,
    fit_work,
    misfit,
)
from epitaxy.graph.record import CrystalRecord

MAX_FRAMES = 20_000


class PhysicsBook:
    """A bounded sample of frames and the checks on it.

    Cheap to fill, independent of the order of records, and mergeable: readers of different parts
    give the same checks as one reader of the whole.
    """

    def __init__(self, *, seed: int = 0, max_frames: int = MAX_FRAMES) -> None:
        self._seed = seed
        self._sample = Sample(seed, max_frames)

    def add(self, record: CrystalRecord) -> None:
        """Takes note of ``record``; compositions and records without these labels are ignored."""
        frame = Frame.of(record)
        if frame is not None:
            self._sample.add(frame)

    def merge(self, other: PhysicsBook) -> None:
        """Adds what ``other``, with the same seed and size, has seen."""
        self._sample.merge(other._sample)

    def checks(self) -> list[Check]:
        """Returns what the labels say of themselves; empty if there are none."""
        families = self._sample.families()
        if not families:
            return []
        walls = build_walls(families)
        found: list[Check | None] = [
            *_work(families, self._seed),
            direction_check(walls),
            pressure_check(walls),
            volume_check(families),
            ratio_check(walls),
            tension_check(families),
            shear_check(families, walls),
            symmetry_check(families),
            force_sum_check(families),
            size_check(families),
            scatter_check(families),
            heaps_check(families),
        ]
        return [check for check in found if check is not None]


def _work(families: Sequence[Sequence[Frame]], seed: int) -> list[Check | None]:
    """Returns the checks on pairs of close frames."""
    pairs = find_pairs(families, seed)
    if not len(pairs):
        return []
    fit, guess = _best_fit(pairs, seed)
    has_stress = any(family[0].stress is not None for family in families)
    has_forces = any(family[0].forces is not None for family in families)
    mixed = sign_check(families, pairs.select(~jumps(pairs, guess)), AS_DECLARED)
    found = work_checks(fit, has_stress, has_forces)
    if mixed is not None:
        found = [_unless_mixed(check) for check in found]
    return [*found, jump_check(families, pairs, guess), mixed]


def _best_fit(pairs: Pairs, seed: int) -> tuple[WorkFit, Hypothesis]:
    """Returns the fit, and how labels are read when jumps of the energy are looked for.

    Energies of two schemes and labels in wrong units both leave energy differences unexplained.
    Whichever explains more pairs is believed: a part of them as declared, or all of them after a
    correction.
    """
    whole = fit_work(pairs, seed)
    alone = pairs.select(~jumps(pairs, AS_DECLARED))
    if len(alone) == len(pairs):
        return whole, AS_DECLARED
    if len(alone) >= MIN_PAIRS:
        missed = misfit(alone, AS_DECLARED, family_weights(alone)).both
        if (1 - missed) * len(alone) / len(pairs) >= 1 - whole.best.both:
            return fit_work(alone, seed), AS_DECLARED
    if not blame(whole):
        return whole, AS_DECLARED
    rest = pairs.select(~jumps(pairs, whole.fitted))
    return fit_work(rest, seed) if len(rest) >= MIN_PAIRS else whole, whole.fitted


def _unless_mixed(check: Check) -> Check:
    if check.verdict != "contradicted":
        return check
    text = "Work and energy cannot be compared while the frames follow two conventions."
    return replace(check, verdict="undetermined", statement=text)
