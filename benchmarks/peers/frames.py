"""The structures that every contestant gets, as plain arrays in one file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

CUTOFF = 8.0
"""Å."""


class Frame(NamedTuple):
    """One structure: Å, eV, eV/Å, and eV/Å³ (3, 3), tension positive."""

    numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray
    energy: float
    forces: np.ndarray
    stress: np.ndarray


@dataclass(frozen=True)
class Frames:
    """Structures laid end to end, and the order in which a round takes them.

    Attributes:
        arrays: ``offsets`` and, over atoms or structures, the fields of ``Frame``.
        batches: Row numbers, one array per batch.
    """

    arrays: Mapping[str, np.ndarray]
    batches: list[list[int]]

    def __len__(self) -> int:
        return len(self.arrays["offsets"]) - 1

    def __iter__(self) -> Iterator[Frame]:
        return (self.frame(row) for row in range(len(self)))

    def frame(self, row: int) -> Frame:
        """Returns one structure."""
        atoms = slice(*self.arrays["offsets"][row : row + 2])
        return Frame(
            self.arrays["numbers"][atoms].astype(int),
            self.arrays["positions"][atoms],
            self.arrays["cell"][row],
            float(self.arrays["energy"][row]),
            self.arrays["forces"][atoms],
            self.arrays["stress"][row],
        )

    def ase(self) -> list:
        """Returns ``ase.Atoms`` that carry their energy, forces and stress as computed."""
        from ase import Atoms
        from ase.calculators.singlepoint import SinglePointCalculator

        made = []
        for frame in self:
            atoms = Atoms(frame.numbers, frame.positions, cell=frame.cell, pbc=True)
            stress = frame.stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
            labels = {"energy": frame.energy, "forces": frame.forces, "stress": stress}
            atoms.calc = SinglePointCalculator(atoms, **labels)
            made.append(atoms)
        return made

    def pymatgen(self) -> list:
        """Returns pymatgen ``Structure``s."""
        from pymatgen.core import Element, Lattice, Structure

        return [
            Structure(
                Lattice(frame.cell),
                [Element.from_Z(int(number)) for number in frame.numbers],
                frame.positions,
                coords_are_cartesian=True,
            )
            for frame in self
        ]

    def save(self, path: Path) -> None:
        """Writes everything to one ``.npz`` file."""
        order = np.concatenate([np.asarray(batch) for batch in self.batches])
        sizes = [len(batch) for batch in self.batches]
        np.savez(path, order=order, sizes=sizes, **self.arrays)

    @classmethod
    def load(cls, path: Path) -> Frames:
        """Reads what ``save`` wrote."""
        with np.load(path) as stored:
            arrays = {name: stored[name] for name in stored.files}
        order, sizes = arrays.pop("order"), arrays.pop("sizes")
        batches = [part.tolist() for part in np.split(order, np.cumsum(sizes)[:-1])]
        return cls(arrays, batches)
