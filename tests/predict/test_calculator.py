"""The ASE calculator: derivatives agree with finite differences, in ASE's own conventions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError

from epitaxy.predict.calculator import EpitaxyCalculator
from epitaxy.predict.predictor import Predictor


@pytest.fixture
def atoms(models: dict[str, Path], crystals: Any) -> Atoms:
    """A skewed crystal with the calculator attached."""
    record = crystals.triclinic(seed=5, num_atoms=4)
    structure = Atoms(record.numbers, record.positions, cell=record.cell, pbc=True)
    structure.calc = EpitaxyCalculator(models["forces"])
    return structure


def test_energy_is_that_of_the_predictor(
    atoms: Atoms, models: dict[str, Path], crystals: Any
) -> None:
    record = crystals.triclinic(seed=5, num_atoms=4)
    energy = Predictor(models["forces"]).predict([record])["energy"][0]
    assert atoms.get_potential_energy() == pytest.approx(energy)
    assert atoms.get_potential_energy(force_consistent=True) == pytest.approx(energy)


def test_forces_are_the_slope_of_the_energy(atoms: Atoms) -> None:
    forces, step = atoms.get_forces(), 1e-5
    direction = np.random.default_rng(0).normal(size=forces.shape)
    energies = []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.calc = atoms.calc
        moved.positions += sign * step * direction
        energies.append(moved.get_potential_energy())
    slope = (energies[0] - energies[1]) / (2 * step)
    assert -slope == pytest.approx((forces * direction).sum(), rel=1e-5)


def test_stress_is_in_voigt_order_with_tension_positive(atoms: Atoms) -> None:
    stress, step = atoms.get_stress(), 1e-6
    for index, (i, j) in enumerate([(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]):
        energies = []
        for sign in (1, -1):
            strain = np.eye(3)
            strain[i, j] += sign * step / 2
            strain[j, i] += sign * step / 2
            strained = atoms.copy()
            strained.calc = atoms.calc
            strained.set_cell(atoms.cell.array @ strain, scale_atoms=True)
            energies.append(strained.get_potential_energy())
        slope = (energies[0] - energies[1]) / (2 * step) / atoms.get_volume()
        assert slope == pytest.approx(stress[index], rel=1e-4, abs=1e-9)


def test_a_slab_has_forces_but_no_stress(atoms: Atoms) -> None:
    atoms.pbc = (True, True, False)
    assert atoms.get_forces().shape == (4, 3)
    with pytest.raises(PropertyNotImplementedError, match="gives no stress"):
        atoms.get_stress()
