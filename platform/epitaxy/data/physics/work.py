"""Work and energy: the energy differences of close frames against the work of stress and forces.

``E_b - E_a = k_σ W_σ + k_F W_F`` must hold with both slopes 1. Slopes are found in two steps: every
known mistake (and every pair of mistakes) is tried, and the best is refined by a robust fit. The
first step makes the second independent of units: stresses in kbar are 1602 times too large, and no
local fit would find its way from there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64

from epitaxy.data.physics.check import mistakes
from epitaxy.data.physics.orders import ORDERS
from epitaxy.data.physics.pairs import Pairs

PRECISION = 0.02
"""Share of the work by which even a perfect pair may miss: k-points, smearing, Pulay stress."""
BEND = 0.3
"""Share of the bend (half the difference of the ends) taken as the error of the trapezoid rule."""
FITS = 0.1
"""Relative misfit at which a pair is half missed."""
NOISE = 5e-4
"""eV per atom that two calculations may differ by for no physical reason."""
COMPLEXITY = 0.02
"""What every further assumption costs in misfit, so that one mistake is preferred to two."""
TIE = 0.02
"""Hypotheses this close in misfit are told apart by nothing in the data."""
REFINED = 16
"""Hypotheses whose slopes are fitted."""
NEAR = 1.6
"""A slope within this factor of a guess bears the guess out."""
RESAMPLES = 24


@dataclass(frozen=True)
class Hypothesis:
    """One guess at how labels are wrong: what they must be multiplied by.

    ``atoms_power`` multiplies the energy by N^power, ``volume_power`` the stress by V^power;
    ``order`` is the index in ``ORDERS`` that the components of the stress are in.
    """

    energy: float = 1.0
    stress: float = 1.0
    forces: float = 1.0
    atoms_power: int = 0
    volume_power: int = 0
    order: int = 0

    @property
    def assumptions(self) -> int:
        """How many things it says are wrong."""
        energy = self.energy != 1 or self.atoms_power != 0
        stress = self.stress != 1 or self.volume_power != 0
        return energy + stress + (self.forces != 1) + (self.order != 0)


AS_DECLARED = Hypothesis()


def hypotheses() -> Iterator[Hypothesis]:
    """Yields all guesses, the declared meaning first, likelier ones before others."""
    yield AS_DECLARED
    stress = [1 / m.factor for m in mistakes("stress")]
    forces = [1 / m.factor for m in mistakes("forces")]
    yield from (Hypothesis(stress=factor) for factor in stress)
    yield from (Hypothesis(forces=factor) for factor in forces)
    yield from (Hypothesis(order=order) for order in range(1, len(ORDERS)))
    yield from (Hypothesis(atoms_power=power) for power in (1, -1))
    yield from (Hypothesis(energy=1 / m.factor) for m in mistakes("energy"))
    yield from (Hypothesis(stress=sign, volume_power=-1) for sign in (1.0, -1.0))
    for factor in stress:
        yield from (Hypothesis(stress=factor, forces=other) for other in forces)
        yield from (Hypothesis(stress=factor, order=order) for order in range(1, len(ORDERS)))


@dataclass(frozen=True)
class Terms:
    """Pairs as one hypothesis sees them."""

    energy: Float64[np.ndarray, " pairs"]
    stress: Float64[np.ndarray, " pairs"]
    forces: Float64[np.ndarray, " pairs"]
    bend: Float64[np.ndarray, " pairs"]

    @property
    def size(self) -> Float64[np.ndarray, " pairs"]:
        """Everything that moves, eV: the scale a misfit is measured on."""
        return np.abs(self.energy) + np.abs(self.stress) + np.abs(self.forces)

    @property
    def misfit(self) -> Float64[np.ndarray, " pairs"]:
        """Energy difference less work, eV."""
        return self.energy - self.stress - self.forces


def terms(pairs: Pairs, guess: Hypothesis) -> Terms:
    """Returns the terms of ``pairs`` after the labels are corrected as ``guess`` says."""
    factor = guess.stress * pairs.volume**guess.volume_power
    bend = np.abs(factor * pairs.stress_bend[:, guess.order])
    return Terms(
        guess.energy * pairs.energy * pairs.num_atoms**guess.atoms_power,
        factor * pairs.stress[:, guess.order],
        guess.forces * pairs.forces,
        bend + np.abs(guess.forces * pairs.forces_bend),
    )


def family_weights(pairs: Pairs) -> Float64[np.ndarray, " pairs"]:
    """Returns weights whose sum over a family is the root of its number of pairs."""
    _, inverse, counts = np.unique(pairs.family, return_inverse=True, return_counts=True)
    return 1 / np.sqrt(counts[inverse])


@dataclass(frozen=True)
class Misfit:
    """Shares of the pairs that are missed: 0 is perfect, near 1 is unrelated.

    A pair counts m²/(m² + ``FITS``²), where m is |misfit| over size: pairs that are wrong in
    themselves (a stress that never belonged to its frame) count alike under every hypothesis.

    ``stress`` is that of pairs in proportion to the share of the stress in their size, ``forces``
    alike; NaN where a work is nil in every pair. So a few strained cells among many vibrating ones
    are heard.
    """

    stress: float
    forces: float

    @property
    def both(self) -> float:
        """Their mean."""
        known = [value for value in (self.stress, self.forces) if not np.isnan(value)]
        return float(np.mean(known)) if known else 1.0


def misfit(
    pairs: Pairs, guess: Hypothesis, base: np.ndarray, shares: Hypothesis | None = None
) -> Misfit:
    """Returns how badly ``guess`` explains ``pairs``.

    Args:
        pairs: At least one.
        guess: How the labels are corrected.
        base: Weights of the pairs.
        shares: Weigh the pairs as this hypothesis does; ``guess`` itself by default.
    """
    seen = terms(pairs, guess)
    size = np.maximum(seen.size, 1e-12)
    relative = (seen.misfit / size) ** 2
    missed = relative / (relative + FITS**2)
    if shares is not None:
        seen = terms(pairs, shares)
        size = np.maximum(seen.size, 1e-12)
    weight = base * size / (size + _noise(pairs, guess)) / (1 + (2 * seen.bend / size) ** 2)
    return Misfit(
        _mean(missed, _by_share(weight, seen.stress / size)),
        _mean(missed, _by_share(weight, seen.forces / size)),
    )


def _noise(pairs: Pairs, guess: Hypothesis) -> Float64[np.ndarray, " pairs"]:
    # Energies made smaller by a guess bring their noise along, or every pair would fade into it.
    scale = np.abs(guess.energy * pairs.num_atoms**guess.atoms_power)
    return NOISE * pairs.num_atoms * np.minimum(scale, 1.0)


def _by_share(weight: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Returns ``weight`` times the square of ``share``, the largest ones capped.

    The square, or thousands of small shares drown the pairs that know; the cap, because pairs
    whose energies are equal by symmetry have a share of 1 under any hypothesis.
    """
    squares = share**2
    known = squares[squares > 0]
    return weight * np.minimum(squares, _middle(known) * 3) if len(known) else squares


def _middle(values: np.ndarray) -> float:
    # The upper median; many times as fast as numpy's, which this is called too often for.
    half = len(values) // 2
    return float(np.partition(values, half)[half])


def _mean(values: np.ndarray, weights: np.ndarray) -> float:
    total = weights.sum()
    return float((values * weights).sum() / total) if total > 0 else float("nan")


@dataclass(frozen=True)
class WorkFit:
    """The best explanation of the energy differences.

    Attributes:
        guess: The best hypothesis.
        fitted: The same with its slopes fitted.
        rivals: Others that do nearly as well.
        declared: Misfit as declared.
        best: Misfit of the best hypothesis with its slopes fitted.
        without_stress: Misfit of the best hypothesis with the stress left out, where it matters.
        without_forces: The same with the forces left out.
        stress: What the declared stress must be multiplied by to explain the energy as ``guess``
            sees it (1 if all is well); NaN where it does no work.
        forces: The same for the forces.
        stress_error: Standard error of ``stress`` from resampled families (or blocks of frames).
        forces_error: The same for ``forces``.
        count: Pairs.
        families: Families they come from.
        frames: Frames they join.
    """

    guess: Hypothesis
    fitted: Hypothesis
    rivals: tuple[Hypothesis, ...]
    declared: Misfit
    best: Misfit
    without_stress: float
    without_forces: float
    stress: float
    forces: float
    stress_error: float
    forces_error: float
    count: int
    families: int
    frames: int


def fit_work(pairs: Pairs, seed: int = 0) -> WorkFit:
    """Returns the best explanation of ``pairs`` (at least one)."""
    base = family_weights(pairs)
    rough = [
        (misfit(pairs, guess, base).both + COMPLEXITY * guess.assumptions, index, guess)
        for index, guess in enumerate(hypotheses())
    ]
    candidates = [_refine(pairs, guess, base, index) for _, index, guess in sorted(rough)[:REFINED]]
    least = min(candidate.cost for candidate in candidates)
    ties = sorted((c for c in candidates if c.cost <= least + TIE), key=lambda c: c.index)
    # The likelier of two that are nearly equal; a rival must do as well without being fitted.
    winner = next(c for c in ties if c.cost <= least + TIE / 4)
    resampled = _resampled(pairs, winner.guess, np.random.default_rng(seed))
    error = np.full(2, np.inf)
    if len(resampled):
        error = np.sqrt(((resampled - winner.slopes) ** 2).mean(0))
    fitted, ends = winner.fitted, pairs.family * 1_000_000
    return WorkFit(
        guess=winner.guess,
        fitted=fitted,
        rivals=tuple(c.guess for c in ties if c is not winner),
        declared=misfit(pairs, AS_DECLARED, base),
        best=winner.misfit,
        without_stress=misfit(pairs, replace(fitted, stress=0.0), base, fitted).stress,
        without_forces=misfit(pairs, replace(fitted, forces=0.0), base, fitted).forces,
        stress=float(winner.slopes[0] * winner.guess.stress),
        forces=float(winner.slopes[1] * winner.guess.forces),
        stress_error=float(error[0] * abs(winner.guess.stress)),
        forces_error=float(error[1] * abs(winner.guess.forces)),
        count=len(pairs),
        families=len(np.unique(pairs.family)),
        frames=len(np.unique(np.concatenate([ends + pairs.first, ends + pairs.second]))),
    )


@dataclass(frozen=True)
class _Candidate:
    guess: Hypothesis
    slopes: Float64[np.ndarray, "2"]
    fitted: Hypothesis
    misfit: Misfit
    cost: float
    index: int


def _refine(pairs: Pairs, guess: Hypothesis, base: np.ndarray, index: int) -> _Candidate:
    slopes = _slopes(pairs, guess, base)
    known = np.where(np.isnan(slopes), 1.0, slopes)
    fitted = replace(guess, stress=guess.stress * known[0], forces=guess.forces * known[1])
    found = misfit(pairs, fitted, base)
    off = np.abs(np.log(np.maximum(known, 1e-9)))
    away = int((off > np.log(NEAR)).sum())
    cost = found.both + COMPLEXITY * (guess.assumptions + away + 2 * min(off.sum(), 1.0))
    return _Candidate(guess, slopes, fitted, found, cost, index)


def _slopes(pairs: Pairs, guess: Hypothesis, weight: np.ndarray) -> Float64[np.ndarray, "2"]:
    """Returns the slopes of both works relative to ``guess``; NaN for a work that is nil.

    Weighted least squares with Cauchy weights that start from ``guess`` itself: pairs that
    contradict it (another scheme, a stress that never belonged to its frame) cannot pull first.
    """
    seen = terms(pairs, guess)
    error = PRECISION * seen.size + BEND * seen.bend + _noise(pairs, guess)
    columns = np.stack([seen.stress, seen.forces], 1) / error[:, None]
    target = seen.energy / error
    used = np.abs(columns).max(0) > 0.1
    slopes = np.where(used, 1.0, np.nan)
    if not used.any():
        return slopes
    columns = columns[:, used]
    for _ in range(20):
        miss = np.abs(target - columns @ slopes[used])
        rows = columns.T * (weight / (1 + (miss / max(1.5 * _middle(miss), 0.1)) ** 2))
        # Drawn to the guess by one observation: two works in a fixed ratio stay determined.
        normal = rows @ columns + np.eye(columns.shape[1])
        slopes[used] = np.linalg.solve(normal, rows @ target + 1)
    return slopes


def _resampled(pairs: Pairs, guess: Hypothesis, rng: np.random.Generator) -> np.ndarray:
    _, counts = np.unique(pairs.family, return_counts=True)
    blocks = pairs.family if len(counts) >= 8 else pairs.family * 1000 + pairs.first % 8
    names = np.unique(blocks)
    if len(names) < 3:
        return np.zeros((0, 2))
    rows = {name: np.flatnonzero(blocks == name) for name in names}
    base = family_weights(pairs)
    found = []
    for _ in range(RESAMPLES):
        drawn = np.concatenate([rows[name] for name in rng.choice(names, len(names))])
        found.append(_slopes(pairs.select(drawn), guess, base[drawn]))
    return np.array(found)
