"""The one thing all atoms share: they repel each other when they come too close.

Two atoms closer than the sum of their covalent radii push each other apart, about exponentially
(M. Born, J. E. Mayer, Z. Phys. 75, 1 (1932)). This *wall* is no potential, but it knows signs: in
frames that are not relaxed, forces point along its forces, crystals that press on it are under
pressure, and the shears of its virial tell the components of the stress apart. Measured on twelve
sets of density functional calculations, the mean cosine between its forces and the true ones is
0.45 to 0.99 in the fifth of the frames with the largest forces (0.15 in relaxed minerals).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from epitaxy.data.physics.frames import Frame
from epitaxy.graph.neighbors import build_edges
from epitaxy.graph.spec import GraphSpec

SOFTNESS = 0.1
"""Decay of the wall, in sums of radii; best of 0.06 to 0.13, between which little changes."""
REACH = 1.6
"""Sums of radii beyond which the wall is not felt."""
MAX_WALLS = 1000
MAX_ATOMS = 30_000

# Covalent radii in pm, H to Cm. Cordero et al., Dalton Trans. 2008, 2832; heavier ones as Cm.
_RADII_PM = (
    31, 28, 128, 96, 84, 76, 71, 66, 57, 58, 166, 141, 121, 111, 107, 105,
    102, 106, 203, 176, 170, 160, 153, 139, 139, 132, 126, 124, 132, 122, 122, 120,
    119, 120, 120, 116, 220, 195, 190, 175, 164, 154, 147, 146, 142, 139, 145, 144,
    142, 139, 139, 138, 139, 140, 244, 215, 207, 204, 203, 201, 199, 198, 198, 196,
    194, 192, 192, 189, 190, 187, 187, 175, 170, 162, 151, 144, 141, 136, 136, 132,
    145, 146, 148, 140, 150, 150, 260, 221, 215, 206, 200, 196, 190, 187, 180, 169,
)  # fmt: skip
RADII: Float64[np.ndarray, "119"] = np.full(119, _RADII_PM[-1] / 100)
"""Covalent radius of every element in Å, by atomic number."""
RADII[: len(_RADII_PM) + 1] = (0.0, *(radius / 100 for radius in _RADII_PM))


_UNKNOWN = np.full((3, 3), np.nan)


@dataclass(frozen=True)
class Walls:
    """Labels of frames beside what the wall gives; NaN where a frame lacks the label.

    Attributes:
        ids: Of the frames.
        elements: Which elements each is made of.
        family: Index of the family of each frame.
        num_atoms: Its atoms.
        volume: Of its cell, Å³.
        force: Root mean square force on an atom as declared, eV/Å.
        cosine: Cosine between all its forces and those of the wall.
        stress: Declared stress, eV/Å³.
        wall: Stress of the wall, (1/V) dE/dε, in units of its own.
    """

    ids: list[str]
    elements: list[bytes]
    family: Int64[np.ndarray, " frames"]
    num_atoms: Float64[np.ndarray, " frames"]
    volume: Float64[np.ndarray, " frames"]
    force: Float64[np.ndarray, " frames"]
    cosine: Float64[np.ndarray, " frames"]
    stress: Float64[np.ndarray, "frames 3 3"]
    wall: Float64[np.ndarray, "frames 3 3"]


def build_walls(families: Sequence[Sequence[Frame]]) -> Walls:
    """Returns walls of up to ``MAX_WALLS`` frames, one of every family before a second of any."""
    rows: list[tuple[int, Frame, np.ndarray, np.ndarray]] = []
    atoms = 0
    for index, frame in _by_turns(families):
        atoms += frame.num_atoms
        if len(rows) >= MAX_WALLS or (atoms > MAX_ATOMS and len(rows) >= 20):
            break
        forces, stress = wall_of(frame)
        rows.append((index, frame, forces, stress))
    return Walls(
        [frame.id for _, frame, *_ in rows],
        [np.unique(frame.numbers).tobytes() for _, frame, *_ in rows],
        np.array([index for index, *_ in rows], dtype=np.int64),
        np.array([frame.num_atoms for _, frame, *_ in rows], dtype=np.float64),
        np.array([frame.volume for _, frame, *_ in rows]),
        np.array([_force(frame) for _, frame, *_ in rows]),
        np.array([_cosine(frame, forces) for _, frame, forces, _ in rows]),
        np.array([_UNKNOWN if f.stress is None else f.stress for _, f, *_ in rows]).reshape(
            -1, 3, 3
        ),
        np.array([stress for *_, stress in rows]).reshape(-1, 3, 3),
    )


def wall_of(frame: Frame) -> tuple[Float64[np.ndarray, "atoms 3"], Float64[np.ndarray, "3 3"]]:
    """Returns forces (pointing away from close neighbours) and stress of the wall; units its own.

    The stress is NaN if the frame is not periodic along all three axes.
    """
    radii = RADII[frame.numbers]
    edges = build_edges(
        GraphSpec(cutoff=float(REACH * 2 * radii.max())),
        frame.positions,
        frame.cell[None],
        frame.pbc[None],
        np.array([0, frame.num_atoms]),
        names=[frame.id],
    )
    vectors = frame.positions[edges.source] - frame.positions[edges.target]
    vectors += edges.shifts @ np.where(frame.pbc[:, None], frame.cell, 0.0)
    lengths = np.linalg.norm(vectors, axis=1)
    near = lengths / (radii[edges.source] + radii[edges.target])
    push = np.exp((1 - near) / SOFTNESS) * np.clip((REACH - near) / 0.2, 0, 1)
    pushes = -(push / lengths)[:, None] * vectors
    forces = np.stack(
        [np.bincount(edges.target, pushes[:, axis], frame.num_atoms) for axis in range(3)], axis=1
    )
    if not frame.pbc.all():
        return forces, np.full((3, 3), np.nan)
    return forces, 0.5 * (pushes.T @ vectors) / frame.volume


def _by_turns(families: Sequence[Sequence[Frame]]) -> list[tuple[int, Frame]]:
    # Through each family in steps of the golden section: spread over it at any length.
    order = [
        (turn, index, family[int(turn * 0.618034 * len(family)) % len(family)])
        for index, family in enumerate(families)
        for turn in range(min(len(family), MAX_WALLS))
    ]
    chosen, seen = [], set()
    for _, index, frame in sorted(order, key=lambda item: item[:2]):
        if frame.id not in seen:
            seen.add(frame.id)
            chosen.append((index, frame))
    return chosen


def _force(frame: Frame) -> float:
    if frame.forces is None:
        return float("nan")
    return float(np.sqrt((frame.forces.astype(np.float64) ** 2).sum(1).mean()))


def _cosine(frame: Frame, wall: np.ndarray) -> float:
    if frame.forces is None:
        return float("nan")
    forces = frame.forces.astype(np.float64)
    # Forces by symmetry zero are round-off on both sides, and point anywhere.
    size = np.linalg.norm(forces) * np.linalg.norm(wall)
    return float((forces * wall).sum() / size) if size > 1e-9 * frame.num_atoms else 0.0
