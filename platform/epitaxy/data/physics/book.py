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
from epitaxy.data.physics.verdicts import EXPLAINED, MIN_PAIRS, blame, work_checks
from epitaxy.data.physics.volumes import volume_check
from epitaxy.data.physics.wall import build_walls
from epitaxy.data.physics.work import AS_DECLARED, family_weights, fit_work, misfit
from epitaxy.graph.record import CrystalRecord

MAX_FRAMES = 20_000
MIXED = 0.75
"""Share of jumps up to which pairs without one are taken as the truth; beyond, the unit is."""


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
    alone = _without_jumps(pairs)
    guess = AS_DECLARED
    fit = fit_work(pairs if alone is None else alone, seed)
    if alone is None and blame(fit):
        guess = fit.guess
        alone = pairs.select(~jumps(pairs, guess))
        if MIN_PAIRS <= len(alone) < len(pairs):
            fit = fit_work(alone, seed)
    has_stress = any(family[0].stress is not None for family in families)
    has_forces = any(family[0].forces is not None for family in families)
    mixed = sign_check(families, pairs if alone is None else alone, AS_DECLARED)
    found = work_checks(fit, has_stress, has_forces)
    if mixed is not None:
        found = [_unless_mixed(check) for check in found]
    return [*found, jump_check(families, pairs, jumps(pairs, guess)), mixed]


def _without_jumps(pairs: Pairs) -> Pairs | None:
    """Returns the pairs without jumps if those agree as declared, else ``None``."""
    jumped = jumps(pairs, AS_DECLARED)
    alone = pairs.select(~jumped)
    if jumped.mean() > MIXED or len(alone) < MIN_PAIRS:
        return None
    missed = misfit(alone, AS_DECLARED, family_weights(alone)).both
    return alone if 1 - missed >= EXPLAINED else None


def _unless_mixed(check: Check) -> Check:
    if check.verdict != "contradicted":
        return check
    text = "Work and energy cannot be compared while the frames follow two conventions."
    return replace(check, verdict="undetermined", statement=text)
