"""Which slot of the stress holds which shear.

A shear of the cell, or of the atoms in it, is answered by the same shear of the stress. Two
references tell the shears of a frame without looking at its stress: the strain of its cell against
the middle of its family, and the wall (see ``wall.py``). For each order of the three shear slots,
the cosine between reference and label is averaged over frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from epitaxy.data.physics.check import Check
from epitaxy.data.physics.frames import Frame
from epitaxy.data.physics.orders import ORDERS, describe
from epitaxy.data.physics.pairs import MAX_STRAIN, decompose, shortest
from epitaxy.data.physics.wall import Walls

SHEAR_ORDERS = 6
"""The first of ``ORDERS``: those that move shears only."""
MIN_SHEAR_STRAIN = 2e-3
MIN_FRAMES = 6
SURE_FRAMES = 12
"""With fewer, four standard errors happen by chance: the order is doubted, not contradicted."""
INDEPENDENT = 40
"""Frames of a family count as this many independent ones at most."""
AFFINE = 0.1
"""Å. Atoms displaced by more (root mean square) against the cell answer to more than its strain."""
CLEAR = 4.0
"""Standard errors by which one order must beat another: frames of one run are not independent."""
_ROW, _COLUMN = (1, 0, 0), (2, 2, 1)


@dataclass(frozen=True)
class Alignment:
    """Mean cosine between reference and label for each order, and how clear the best is.

    Attributes:
        cosines: One for each of the shear orders.
        best: The order with the largest.
        margin: Its lead over the declared order in standard errors; over the next best order if it
            is the declared one.
        frames: How many took part.
    """

    cosines: Float64[np.ndarray, " orders"]
    best: int
    margin: float
    frames: int

    @property
    def says(self) -> int | None:
        """The order it speaks for; ``None`` if it cannot tell."""
        gap = self.cosines[self.best] - self.cosines[0]
        if self.frames < MIN_FRAMES or self.margin < CLEAR or self.cosines[self.best] < 0.15:
            return None
        return self.best if self.best == 0 or gap > 0.15 else None


def shear_check(families: Sequence[Sequence[Frame]], walls: Walls) -> Check | None:
    """Returns the check of the order of stress components; ``None`` without stresses."""
    if not np.isfinite(walls.stress).all(axis=(1, 2)).any():
        return None
    strained, ids = by_strain(families)
    sources = {"strained cells": strained, "displaced atoms": by_wall(walls, ids)}
    said = {name: found.says for name, found in sources.items() if found.says is not None}
    numbers: dict[str, float | int | str] = {}
    for name, found in sources.items():
        key = name.replace(" ", "_")
        numbers[f"{key}_frames"] = found.frames
        if found.frames:
            numbers[f"{key}_cosine_as_declared"] = round(float(found.cosines[0]), 3)
            numbers[f"{key}_cosine_at_best"] = round(float(found.cosines[found.best]), 3)
    text = "; ".join(
        f"{name} ({sources[name].frames} frames): cosine {sources[name].cosines[0]:.2f} as declared"
        + (f", {sources[name].cosines[order]:.2f} if {describe(order)}" if order else "")
        for name, order in said.items()
    )
    if not said:
        text = "The order of the shear components cannot be told: too little shear."
        return Check("stress_order", "undetermined", text, numbers)
    if set(said.values()) == {0}:
        return Check("stress_order", "confirmed", f"Shears answer shears: {text}.", numbers)
    if len(set(said.values())) > 1:
        text = f"Frames seem to list the stress in different orders: {text}; import them apart."
        return Check("stress_order", "suspicious", text, numbers)
    text = f"The components of the stress are in another order: {text}; declare the file's order."
    sure = max(sources[name].frames for name in said) >= SURE_FRAMES
    return Check("stress_order", "contradicted" if sure else "suspicious", text, numbers)


def by_strain(families: Sequence[Sequence[Frame]]) -> tuple[Alignment, set[str]]:
    """Returns the alignment of the stress with the strain of the cells, and the frames' ids."""
    strains, stresses, names = [np.zeros((0, 3, 3))], [np.zeros((0, 3, 3))], [np.zeros(0, np.int64)]
    ids: set[str] = set()
    for index, family in enumerate(families):
        if len(family) < 4 or family[0].stress is None:
            continue
        kept, strain, stress = _response(family)
        strains.append(strain)
        stresses.append(stress)
        names.append(np.full(len(strain), index))
        ids.update(family[row].id for row in kept)
    shear = np.concatenate(strains)[:, _ROW, _COLUMN]
    shear[np.abs(shear).max(1) < MIN_SHEAR_STRAIN] = 0.0
    return _align(shear, np.concatenate(stresses), np.concatenate(names)), ids


def by_wall(walls: Walls, without: set[str]) -> Alignment:
    """Returns the alignment of the stress with the wall's shears, of frames not in ``without``."""
    size = np.linalg.norm(walls.wall, axis=(1, 2))
    shear = walls.wall[:, _ROW, _COLUMN].copy()
    # Shears far below the pressure come from where the wall ends, not from the crystal.
    shear[np.abs(shear).max(1) < 0.002 * size] = 0.0
    usable = np.isfinite(shear).all(1) & np.isfinite(walls.stress).all(axis=(1, 2))
    usable &= np.array([name not in without for name in walls.ids])
    return _align(shear[usable], walls.stress[usable], walls.family[usable])


def _response(family: Sequence[Frame]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns rows of strained frames, strains against the quietest, and stresses turned along."""
    cells = np.array([frame.cell for frame in family])
    stresses = np.array([frame.stress for frame in family])
    middle = _quietest(family, cells)
    stretch, strain, rotation = decompose(np.linalg.solve(cells[middle][None], cells))
    places = np.array([frame.positions for frame in family]) @ np.linalg.inv(cells)
    moved = shortest(places - places[middle], family[0].pbc) @ cells[middle] @ stretch
    kept = np.abs(strain).max(axis=(1, 2)) < MAX_STRAIN
    kept &= np.sqrt((moved**2).sum(2).mean(1)) < AFFINE
    kept &= np.abs(strain[:, _ROW, _COLUMN]).max(1) >= MIN_SHEAR_STRAIN
    turned = rotation @ stresses @ rotation.transpose(0, 2, 1)
    return np.flatnonzero(kept), strain[kept], turned[kept] - turned[middle]


def _quietest(family: Sequence[Frame], cells: np.ndarray) -> int:
    """Returns the frame with the smallest forces; of equals, that with the middle cell."""
    force = np.zeros(len(family))
    if family[0].forces is not None:
        force = np.array([np.abs(f.forces).max() for f in family if f.forces is not None])
    away = np.linalg.norm(cells - np.median(cells, axis=0), axis=(1, 2))
    return int(np.lexsort((away, np.round(force, 3)))[0])


def _align(
    shear: Float64[np.ndarray, "frames 3"],
    stress: Float64[np.ndarray, "frames 3 3"],
    family: Int64[np.ndarray, " frames"],
) -> Alignment:
    listed = stress[:, _ROW, _COLUMN]
    deviator = np.linalg.norm(
        stress - np.trace(stress, axis1=1, axis2=2)[:, None, None] / 3 * np.eye(3), axis=(1, 2)
    )
    size, label = np.linalg.norm(shear, axis=1), np.linalg.norm(listed, axis=1)
    heard = (size > 0) & (label > 0.05 * deviator) & (label > 1e-9)
    shear, listed, family = shear[heard], listed[heard], family[heard]
    if not len(shear):
        return Alignment(np.zeros(SHEAR_ORDERS), 0, 0.0, 0)
    orders = np.array([[slot - 3 for slot in order[3:]] for order in ORDERS[:SHEAR_ORDERS]])
    products = np.einsum("fa,fka->fk", shear, listed[:, orders])
    cosines = products / (size[heard] * label[heard])[:, None]
    _, inverse, counts = np.unique(family, return_inverse=True, return_counts=True)
    weight = np.minimum(1.0, INDEPENDENT / counts)[inverse]
    mean = np.average(cosines, axis=0, weights=weight)
    best = int(mean.argmax()) if mean.max() > mean[0] + 1e-9 else 0
    # The declared order must beat every other, another one only the declared.
    others = range(1, SHEAR_ORDERS) if best == 0 else [0]
    leads = [cosines[:, best] - cosines[:, other] for other in others]
    margin = min(significance(lead, weight) for lead in leads)
    return Alignment(mean, best, float(margin), int(heard.sum()))


def significance(values: np.ndarray, weight: np.ndarray) -> float:
    """Returns the weighted mean in standard errors; a weight of 1 is one independent value."""
    mean = np.average(values, weights=weight)
    spread = np.sqrt(np.average((values - mean) ** 2, weights=weight))
    return float(mean / (spread / np.sqrt(weight.sum()) + 1e-9))
