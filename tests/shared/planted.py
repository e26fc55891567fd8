"""The same crystal written down otherwise: what a search for duplicates must see through."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from epitaxy.graph.record import CrystalRecord


@dataclass(frozen=True)
class Disguise:
    """What is done to a crystal besides another choice of lattice vectors.

    Attributes:
        shuffle: Whether atoms change their order and the cells they lie in.
        rotate: Whether it is rotated or, half of the time, reflected as well.
        shift: Whether the origin moves.
        enlarge: Whether a supercell of twice the atoms is taken.
        primitive: Whether the cell is first reduced to a primitive one, by pymatgen.
        rattle: Standard deviation of each coordinate, Å.
        strain: Largest component of a random strain.
    """

    shuffle: bool = False
    rotate: bool = False
    shift: bool = False
    enlarge: bool = False
    primitive: bool = False
    rattle: float = 0.0
    strain: float = 0.0


KINDS: dict[str, Disguise] = {
    "permutation": Disguise(shuffle=True),
    "rotation": Disguise(rotate=True),
    "origin": Disguise(shift=True),
    "supercell": Disguise(enlarge=True),
    "primitive": Disguise(primitive=True),
    "rattle": Disguise(rattle=1e-3),
    "strain": Disguise(strain=1e-3),
    "all": Disguise(True, True, True, True, True, 1e-3, 1e-3),
}


def disguised(record: CrystalRecord, disguise: Disguise, rng: np.random.Generator) -> CrystalRecord:
    """Returns ``record`` in another cell and with everything done that ``disguise`` says."""
    if disguise.primitive:
        record = primitive(record)
    transform = _unimodular(rng)
    if disguise.enlarge:
        transform = transform @ np.diag(rng.permutation([2, 1, 1]))
    record = enlarged(record, transform)
    positions, cell, numbers = record.positions, record.cell, record.numbers
    if disguise.strain:
        strain = rng.uniform(-disguise.strain, disguise.strain, (3, 3))
        deform = np.eye(3) + (strain + strain.T) / 2
        positions, cell = positions @ deform, cell @ deform
    if disguise.rattle:
        positions = positions + rng.normal(size=positions.shape) * disguise.rattle
    if disguise.shift:
        positions = positions + rng.uniform(-20, 20, 3)
    if disguise.rotate:
        rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        positions, cell = positions @ rotation, cell @ rotation
    if disguise.shuffle:
        order = rng.permutation(len(numbers))
        positions = positions[order] + rng.integers(-2, 3, positions.shape) @ cell
        numbers = numbers[order]
    return CrystalRecord(record.id, numbers, positions, cell)


def enlarged(record: CrystalRecord, transform: np.ndarray) -> CrystalRecord:
    """Returns the crystal in the cell ``transform @ cell``, for a matrix of whole numbers."""
    inverse = np.linalg.inv(transform)
    reach = int(np.abs(transform).sum())
    steps = np.array(list(itertools.product(range(-reach, reach + 1), repeat=3)))
    inside = ((steps @ inverse > -1e-9) & (steps @ inverse < 1 - 1e-9)).all(axis=1)
    shifts = steps[inside] @ record.cell
    if len(shifts) != round(abs(np.linalg.det(transform))):
        raise ValueError(f"{len(shifts)} lattice points in the cell {transform.tolist()}")
    positions = (record.positions[:, None] + shifts).reshape(-1, 3)
    numbers = np.repeat(record.numbers, len(shifts))
    return CrystalRecord(record.id, numbers, positions, transform @ record.cell)


def primitive(record: CrystalRecord) -> CrystalRecord:
    """Returns the crystal in a primitive cell, found by pymatgen."""
    from pymatgen.core import Lattice, Structure

    species = record.numbers.tolist()
    structure = Structure(
        Lattice(record.cell), species, record.positions, coords_are_cartesian=True
    ).get_primitive_structure(tolerance=1e-3)
    numbers = np.array([site.specie.Z for site in structure])
    return CrystalRecord(record.id, numbers, structure.cart_coords, structure.lattice.matrix)


def _unimodular(rng: np.random.Generator) -> np.ndarray:
    """Returns a random matrix of whole numbers and determinant 1: other vectors, same lattice."""
    matrix = np.eye(3, dtype=int)
    for _ in range(3):
        one, other = rng.choice(3, 2, replace=False)
        matrix[one] += rng.integers(-1, 2) * matrix[other]
    return matrix
