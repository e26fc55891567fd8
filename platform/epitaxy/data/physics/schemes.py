"""Labels that come from two sources: energies that jump, stresses whose sign changes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float64
from scipy.sparse import coo_matrix
from scipy.sparse.linalg import lsqr

from epitaxy.data.physics.check import Check, Verdict
from epitaxy.data.physics.frames import Frame
from epitaxy.data.physics.pairs import Pairs
from epitaxy.data.physics.work import BEND, NOISE, PRECISION, Hypothesis, terms

JUMP = 0.05
"""eV per atom. Two calculations of one scheme with other settings differ by up to 0.03."""
UNEXPLAINED = 3.0
"""A jump is also this many times the work and its bend, which no anharmonicity reaches."""
MANY_JUMPS, MANY_PAIRS = 0.1, 6
KNOWN = 0.2
"""Standard error of a frame's factor up to which it is looked at."""
NIL = 0.02
"""Factor of a stress in kbar or GPa among others in eV/Å³, which is 1/160 at most."""
OTHER_SHARE, OTHER_FRAMES, TWO_HEAPS = 0.1, 4, 0.8
"""The others are so many and this share, and nearly all frames are one or the other: stresses that
belong to no frame at all, as in a few relaxations of MPtrj, scatter instead."""
SHOWN = 4


def jumps(pairs: Pairs, guess: Hypothesis) -> Bool[np.ndarray, " pairs"]:
    """Returns the pairs whose energies differ by far more than any work explains."""
    seen = terms(pairs, guess)
    work = np.abs(seen.stress) + np.abs(seen.forces) + seen.bend
    miss = np.abs(seen.misfit)
    return (miss > JUMP * pairs.num_atoms) & (miss > UNEXPLAINED * work)


def jump_check(families: Sequence[Sequence[Frame]], pairs: Pairs, guess: Hypothesis) -> Check:
    """Returns whether close frames have energies of one scheme."""
    jumped = jumps(pairs, guess)
    count = int(jumped.sum())
    share = count / max(len(pairs), 1)
    numbers: dict[str, float | int | str] = {"pairs": len(pairs), "jumps": count}
    if not count:
        text = f"No jump of the energy between the frames of {len(pairs)} close pairs."
        return Check("energy_scheme", "confirmed" if len(pairs) else "undetermined", text, numbers)
    rows = np.flatnonzero(jumped)
    heights = np.abs(terms(pairs, guess).misfit[rows]) / pairs.num_atoms[rows]
    names = [
        f"{families[pairs.family[r]][pairs.first[r]].id} / "
        f"{families[pairs.family[r]][pairs.second[r]].id}"
        for r in rows[np.argsort(-heights)][:SHOWN]
    ]
    numbers |= {"median_jump_ev_per_atom": round(float(np.median(heights)), 4)}
    text = (
        f"The energy jumps by {np.median(heights):.2g} eV per atom (median) between the frames of "
        f"{count} of {len(pairs)} close pairs, such as {', '.join(names)}: two functionals, "
        "corrections or references are mixed. Import them apart, each with its scheme."
    )
    many = share >= MANY_JUMPS and count >= MANY_PAIRS
    verdict: Verdict = "contradicted" if many else "suspicious"
    return Check("energy_scheme", verdict, text, numbers)


def sign_check(
    families: Sequence[Sequence[Frame]], pairs: Pairs, guess: Hypothesis
) -> Check | None:
    """Returns a check if a part of the frames has stresses of another sign or unit, else ``None``.

    Every frame gets a factor for its stress, so that together they explain the energies of all
    pairs best.
    """
    factors, errors, owners = frame_factors(pairs, guess)
    known = errors < KNOWN
    if known.sum() < 2 * OTHER_FRAMES:
        return None
    right = known & (np.abs(factors - 1) < 0.5)
    turned = known & (np.abs(factors + 1) < 0.5)
    nil = known & (np.abs(factors) < NIL)
    other, what = (
        (turned, "the opposite sign") if turned.sum() >= nil.sum() else (nil, "another unit")
    )
    share = other.sum() / known.sum()
    numbers: dict[str, float | int | str] = {
        "frames": int(known.sum()),
        "as_most": int(right.sum()),
        "turned": int(turned.sum()),
        "much_too_large": int(nil.sum()),
    }
    two_heaps = right.sum() + other.sum() > TWO_HEAPS * known.sum()
    enough = min(other.sum(), right.sum()) >= OTHER_FRAMES and share >= OTHER_SHARE
    if not (two_heaps and enough):
        return None
    names = [families[f][i].id for f, i in owners[np.flatnonzero(other)[:SHOWN]]]
    text = (
        f"The stress of {other.sum()} of {known.sum()} frames has {what}, compared with the others,"
        f" such as {', '.join(names)}: two conventions are mixed. Import them apart."
    )
    return Check("stress_scheme", "contradicted", text, numbers)


def frame_factors(
    pairs: Pairs, guess: Hypothesis
) -> tuple[Float64[np.ndarray, " frames"], Float64[np.ndarray, " frames"], np.ndarray]:
    """Returns the factor of each frame's stress, its standard error, and (family, index)."""
    seen = terms(pairs, guess)
    factor = guess.stress * pairs.volume**guess.volume_power
    stress, bend = factor * pairs.stress[:, guess.order], factor * pairs.stress_bend[:, guess.order]
    ends = np.stack([stress - bend, stress + bend], 1) / 2
    other_bend = np.abs(guess.forces * pairs.forces_bend)
    # The bend of the stress is no measure here: frames of opposite sign bend any pair.
    size = np.abs(seen.energy) + np.abs(seen.forces)
    error = PRECISION * size + BEND * other_bend + NOISE * pairs.num_atoms
    error = error + 0.1 * np.abs(ends).sum(1)
    keys = np.stack([np.tile(pairs.family, 2), np.concatenate([pairs.first, pairs.second])], 1)
    owners, columns = np.unique(keys, axis=0, return_inverse=True)
    rows = np.tile(np.arange(len(pairs)), 2)
    values = np.concatenate([ends[:, 0], ends[:, 1]]) / np.tile(error, 2)
    matrix = coo_matrix((values, (rows, columns)), shape=(len(pairs), len(owners))).tocsr()
    target = (seen.energy - seen.forces) / error
    weight = np.ones(len(pairs))
    factors = np.zeros(len(owners))
    for _ in range(5):
        root = np.sqrt(weight)
        factors = lsqr(matrix.multiply(root[:, None]).tocsr(), target * root, damp=0.3)[0]
        weight = 1 / (1 + (target - matrix @ factors) ** 2 / 9)
    precision = np.asarray(matrix.multiply(matrix).T @ weight).ravel()
    return factors, 1 / np.sqrt(np.maximum(precision, 1e-12)), owners
