"""Work along the way between two frames of one crystal.

Between frames a and b the cell goes from C to C exp(H) (H symmetric, after the rotation between
them is taken out) and the fractional coordinates from s to s + Δs. Along that way

    dE/dt = V σ:H - Σ F · (Δs C),

and the mean of its two ends gives E_b - E_a up to an error of third order (trapezoid rule; exact
where E is quadratic). Both terms are returned apart, each with half the difference of its ends,
the measure of how far from quadratic the pair may be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Bool, Float64, Int64

from epitaxy.data.physics.frames import Frame
from epitaxy.data.physics.orders import ORDERS, reorder

MAX_STRAIN = 0.15
"""Largest component of H. Beyond it the way leads through other physics, or other cell choices."""
MAX_DISPLACEMENT = 0.6
"""Å, root mean square over atoms; about twice that of a solid near melting."""
SAME_CELL, SAME_PLACES = 1e-5, 1e-3
"""Largest H and displacement (Å) of a pair without stress or without forces."""
ROUND_OFF = 1e-6
"""Strain and displacement (Å) below which a cell and places are the same: files keep 6 digits."""
FAMILY_PAIRS = 300
MAX_PAIRS = 8000
_STEPS = (1, 2, 3, 5, 8)


@dataclass(frozen=True)
class Pairs:
    """Differences and works of pairs, all in eV.

    Attributes:
        energy: E_b - E_a as declared.
        stress: Work of the stress, once for each of ``ORDERS`` its components may be in.
        stress_bend: Half the difference of its ends.
        forces: Work of the forces.
        forces_bend: Half the difference of its ends.
        num_atoms: Atoms of the cell.
        volume: Mean volume, Å³.
        strain: Largest component of H.
        displacement: Root mean square displacement, Å.
        family: Index of the family.
        first: Index of frame a within the family.
        second: Index of frame b.
    """

    energy: Float64[np.ndarray, " pairs"]
    stress: Float64[np.ndarray, "pairs orders"]
    stress_bend: Float64[np.ndarray, "pairs orders"]
    forces: Float64[np.ndarray, " pairs"]
    forces_bend: Float64[np.ndarray, " pairs"]
    num_atoms: Float64[np.ndarray, " pairs"]
    volume: Float64[np.ndarray, " pairs"]
    strain: Float64[np.ndarray, " pairs"]
    displacement: Float64[np.ndarray, " pairs"]
    family: Int64[np.ndarray, " pairs"]
    first: Int64[np.ndarray, " pairs"]
    second: Int64[np.ndarray, " pairs"]

    def __len__(self) -> int:
        return len(self.energy)

    def select(self, rows: np.ndarray) -> Pairs:
        """Returns the pairs at ``rows`` (indices or a mask)."""
        return Pairs(**{item.name: getattr(self, item.name)[rows] for item in fields(self)})


def find_pairs(families: Sequence[Sequence[Frame]], seed: int = 0) -> Pairs:
    """Returns pairs of close frames of every family: neighbours in the order of ids, and others.

    Frames without energy, and families with neither forces nor stress, give none.
    """
    rng = np.random.default_rng(seed)
    parts: list[Pairs] = []
    total = 0
    for index, family in enumerate(families):
        head = family[0]
        if len(family) < 2 or head.energy is None or (head.forces is None and head.stress is None):
            continue
        part = _close(_family_pairs(family, index, rng), head)
        if len(part):
            parts.append(part)
            total += len(part)
        if total >= MAX_PAIRS:
            break
    if not parts:
        return _family_pairs([families[0][0]] * 2, 0, rng).select(np.zeros(0, np.int64))
    names = [item.name for item in fields(Pairs)]
    return Pairs(**{name: np.concatenate([getattr(p, name) for p in parts]) for name in names})


def _close(pairs: Pairs, head: Frame) -> Pairs:
    strain = SAME_CELL if head.stress is None else MAX_STRAIN
    displacement = SAME_PLACES if head.forces is None else MAX_DISPLACEMENT
    rows = np.flatnonzero((pairs.strain <= strain) & (pairs.displacement <= displacement))
    # By distance alone: choosing by what the labels say would bend the answer. Half the places
    # go to pairs of different cells, which in dynamics at fixed cells are never the closest.
    distance = pairs.strain / MAX_STRAIN + pairs.displacement / MAX_DISPLACEMENT
    rows = rows[np.argsort(distance[rows], kind="stable")]
    strained = pairs.strain[rows] > SAME_CELL
    rank = np.where(strained, np.cumsum(strained), np.cumsum(~strained))
    return pairs.select(rows[np.argsort(rank, kind="stable")][:FAMILY_PAIRS])


def _choose(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Returns neighbours in the given order first, then random pairs, none twice."""
    if count * (count - 1) // 2 <= 2 * FAMILY_PAIRS:
        first, second = np.triu_indices(count, 1)
        order = np.argsort(second - first, kind="stable")
        return first[order], second[order]
    near = [(i, i + step) for step in _STEPS for i in range(count - step)][:FAMILY_PAIRS]
    drawn = np.sort(rng.integers(count, size=(2 * FAMILY_PAIRS, 2)), axis=1)
    chosen = np.concatenate([np.array(near), drawn[drawn[:, 0] < drawn[:, 1]]])
    _, rows = np.unique(chosen, axis=0, return_index=True)
    chosen = chosen[rng.permutation(rows)]
    return chosen[:, 0], chosen[:, 1]


def _family_pairs(family: Sequence[Frame], index: int, rng: np.random.Generator) -> Pairs:
    first, second = _choose(len(family), rng)
    cells = np.array([_cell(frame) for frame in family])
    places = np.array([frame.positions for frame in family]) @ np.linalg.inv(cells)
    stretch, log_stretch, rotation = decompose(np.linalg.solve(cells[first], cells[second]))
    shift = shortest(places[second] - places[first], family[0].pbc)
    way_a, way_b = shift @ cells[first], shift @ cells[first] @ stretch
    volumes = np.abs(np.linalg.det(cells))
    strain = np.abs(log_stretch).max((1, 2))
    displacement = np.sqrt((way_a**2).sum(2).mean(1))
    strained, moved = strain > ROUND_OFF, displacement > ROUND_OFF
    forces_a = forces_b = np.zeros(len(first))
    stress_a = stress_b = np.zeros((len(first), len(ORDERS)))
    if family[0].stress is not None:
        stress = reorder(np.array([frame.stress for frame in family]))
        stress_a = _stress_rate(stress[first], volumes[first], log_stretch)
        strain_b = rotation.transpose(0, 2, 1) @ log_stretch @ rotation
        stress_b = _stress_rate(stress[second], volumes[second], strain_b)
    if family[0].forces is not None:
        forces = np.array([frame.forces for frame in family], np.float64)
        turned = forces[second] @ rotation.transpose(0, 2, 1)
        forces_a = -(forces[first] * way_a).sum((1, 2))
        forces_b = -(turned * way_b).sum((1, 2))
    energies = np.array([frame.energy or 0.0 for frame in family], np.float64)
    return Pairs(
        energy=energies[second] - energies[first],
        stress=(stress_a + stress_b) / 2 * strained[:, None],
        stress_bend=(stress_b - stress_a) / 2 * strained[:, None],
        forces=(forces_a + forces_b) / 2 * moved,
        forces_bend=(forces_b - forces_a) / 2 * moved,
        num_atoms=np.full(len(first), float(family[0].num_atoms)),
        volume=(volumes[first] + volumes[second]) / 2,
        strain=strain,
        displacement=displacement,
        family=np.full(len(first), index),
        first=first.astype(np.int64),
        second=second.astype(np.int64),
    )


def _stress_rate(
    stress: Float64[np.ndarray, "pairs orders 3 3"],
    volume: Float64[np.ndarray, " pairs"],
    strain: Float64[np.ndarray, "pairs 3 3"],
) -> Float64[np.ndarray, "pairs orders"]:
    return np.einsum("n,noij,nij->no", volume, stress, strain)


def decompose(
    deformation: Float64[np.ndarray, "pairs 3 3"],
) -> tuple[
    Float64[np.ndarray, "pairs 3 3"],
    Float64[np.ndarray, "pairs 3 3"],
    Float64[np.ndarray, "pairs 3 3"],
]:
    """Returns U, log U and Q of ``deformation = U Q`` (acting on row vectors from the right).

    U is symmetric and positive, Q a rotation (polar decomposition).
    """
    squares, axes = np.linalg.eigh(deformation @ deformation.transpose(0, 2, 1))
    lengths = np.sqrt(np.maximum(squares, 1e-12))
    stretch = np.einsum("nij,nj,nkj->nik", axes, lengths, axes)
    inverse = np.einsum("nij,nj,nkj->nik", axes, 1 / lengths, axes)
    log_stretch = np.einsum("nij,nj,nkj->nik", axes, np.log(lengths), axes)
    return stretch, log_stretch, inverse @ deformation


def _cell(frame: Frame) -> Float64[np.ndarray, "3 3"]:
    """Returns a cell of full rank: unit vectors along open axes of an open system."""
    if frame.pbc.all():
        return frame.cell
    cell = np.where(frame.pbc[:, None], frame.cell, 0.0)
    # Open axes get unit vectors normal to the periodic ones, so a rotation carries them along.
    _, _, directions = np.linalg.svd(cell)
    filled = cell.copy()
    filled[~frame.pbc] = directions[int(frame.pbc.sum()) :]
    if np.linalg.det(filled) < 0:
        filled[np.flatnonzero(~frame.pbc)[0]] *= -1
    return filled


def shortest(
    shift: Float64[np.ndarray, "pairs atoms 3"], pbc: Bool[np.ndarray, "3"]
) -> Float64[np.ndarray, "pairs atoms 3"]:
    """Returns the shortest change of fractional coordinates, without a common translation."""
    wraps = pbc.astype(np.float64)
    shift = shift - shift[:, :1]
    shift = shift - np.round(shift) * wraps
    shift = shift - shift.mean(1, keepdims=True)
    return shift - np.round(shift) * wraps
