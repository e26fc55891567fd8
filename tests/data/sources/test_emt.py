"""The generated alloys: right physics, no leak between the two sources, the same for one seed."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

from epitaxy.data.sources import emt
from epitaxy.data.sources.emt import (
    ELEMENTS,
    ORDERED,
    EmtBulkModulus,
    EmtTrajectories,
    bulk_modulus,
    draw_alloys,
    ordered_cell,
    reduced_formula,
    relax_volume,
    role_of,
)
from epitaxy.errors import RecordError, SourceError
from epitaxy.graph.record import CrystalRecord
from epitaxy.units import GPA_PER_EV_A3


@pytest.fixture(scope="module")
def frames() -> list[CrystalRecord]:
    return list(EmtTrajectories(alloys=4, frames=8).read())


def atoms_of(record: CrystalRecord) -> Atoms:
    return Atoms(record.numbers, record.positions, cell=record.cell, pbc=True, calculator=EMT())


def test_labels_belong_to_the_stored_geometry(frames: list[CrystalRecord]) -> None:
    # The optimiser moves the atoms in place: a record must not follow them.
    for record in frames:
        atoms = atoms_of(record)
        assert record.labels["energy"].value == pytest.approx(atoms.get_potential_energy())
        np.testing.assert_allclose(record.labels["forces"].value, atoms.get_forces(), atol=1e-5)
    assert len({record.structure_digest() for record in frames}) == len(frames)


def test_forces_and_tension_positive_stress_are_derivatives_of_the_energy(
    frames: list[CrystalRecord],
) -> None:
    record, step = frames[3], 1e-5
    energies = []
    for sign in (1, -1):
        atoms = atoms_of(record)
        atoms.positions[1, 0] += sign * step
        energies.append(atoms.get_potential_energy())
    force = -(energies[0] - energies[1]) / (2 * step)
    assert record.labels["forces"].value[1, 0] == pytest.approx(force, rel=1e-4, abs=1e-5)
    energies = []
    for sign in (1, -1):
        atoms = atoms_of(record)
        stretch = np.eye(3)
        stretch[0, 0] += sign * step
        atoms.set_cell(record.cell @ stretch, scale_atoms=True)
        energies.append(atoms.get_potential_energy())
    stress = (energies[0] - energies[1]) / (2 * step) / record.volume
    assert record.labels["stress"].value[0, 0] == pytest.approx(stress, rel=1e-4, abs=1e-6)
    assert record.labels["stress"].unit == "eV/Å^3"


def test_relaxations_go_down_and_dynamics_conserve_energy(frames: list[CrystalRecord]) -> None:
    for _, of_alloy in itertools.groupby(frames, key=lambda record: record.group):
        records = list(of_alloy)
        relaxed = [r.labels["energy"].value for r in records if "-relax-" in r.id]
        assert relaxed[-1] < relaxed[0]
        assert sum("-md-" in r.id for r in records) == 4


def test_one_formula_is_one_group_and_belongs_to_one_source(frames: list[CrystalRecord]) -> None:
    targets = list(EmtBulkModulus(alloys=12).read())
    assert {role_of(record.group) for record in frames} == {"trajectories"}
    assert {role_of(record.group) for record in targets} == {"bulk_modulus"}
    assert len({record.group for record in targets}) == len(targets) == 12
    assert len({record.group for record in frames}) == 4


def test_a_seed_gives_the_same_records_and_another_seed_others() -> None:
    source = EmtTrajectories(alloys=1, frames=4)
    first, again = list(source.read()), list(source.read("emt://"))
    other = list(source.read("emt://?seed=1"))
    assert first == again
    assert first != other


def test_the_query_overrides_arguments_and_refuses_what_it_does_not_know() -> None:
    assert len(list(EmtBulkModulus().read("emt://?alloys=3"))) == 3
    with pytest.raises(SourceError, match="unknown argument 'aloys'; did you mean 'alloys'"):
        list(EmtBulkModulus().read("emt://?aloys=3"))
    with pytest.raises(SourceError, match="whole number, got 'few'"):
        list(EmtBulkModulus().read("emt://?alloys=few"))


def test_alloys_are_binary_or_ternary_cells_of_the_seven_metals() -> None:
    alloys = list(draw_alloys(60, 0, "trajectories"))
    for alloy in alloys:
        assert set(alloy.atoms.symbols) <= set(ELEMENTS)
        assert 2 <= len(set(alloy.atoms.symbols)) <= 3
        assert 2 <= len(alloy.atoms) <= 16
        assert alloy.name == f"{alloy.formula}-{alloy.prototype}"
    assert len({alloy.prototype for alloy in alloys}) >= 8


def test_more_alloys_than_there_are_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emt, "role_of", lambda formula: "bulk_modulus")
    with pytest.raises(SourceError, match="only 0 of 1 alloys could be drawn"):
        list(draw_alloys(1, 0, "trajectories"))


@pytest.mark.parametrize(
    ("prototype", "formula", "unlike_neighbors"),
    # Neighbours of another kind around the minority (or the second) species, by crystallography.
    [("L1_0", "CuAu", 8), ("L1_2", "Cu3Au", 12), ("B2", "CuAu", 8), ("D0_19", "Cu3Au", 12),
     ("D0_3", "Cu3Au", 8), ("L2_1", "Cu2AuPd", 8)],
)  # fmt: skip
def test_ordered_cells_have_the_right_neighbours(prototype, formula, unlike_neighbors) -> None:
    atoms = ordered_cell(prototype, ["Cu", "Au", "Pd"])
    assert reduced_formula(atoms) == reduced_formula(Atoms(formula))
    block = atoms.repeat(4)
    center = int(np.flatnonzero(block.symbols == "Au")[0])
    distances = block.get_distances(center, range(len(block)), mic=True)
    shell = np.flatnonzero((distances > 0.1) & (distances < 1.01 * np.sort(distances)[1]))
    assert sum(block.symbols[i] != "Au" for i in shell) == unlike_neighbors
    assert prototype in ORDERED


def test_an_unknown_prototype_gets_a_hint() -> None:
    with pytest.raises(SourceError, match="unknown prototype 'L12'; did you mean 'L1_2'"):
        ordered_cell("L12", ["Cu", "Au", "Pd"])


@pytest.mark.parametrize(
    ("symbol", "lattice_constant", "modulus"),
    [("Cu", 3.59, 134.0), ("Ni", 3.49, 175.0), ("Pt", 3.92, 278.0), ("Ag", 4.06, 100.0)],
)
def test_bulk_moduli_of_the_pure_metals(symbol, lattice_constant, modulus) -> None:
    atoms = relax_volume(bulk(symbol, a=1.02 * lattice_constant))
    assert (4 * atoms.get_volume()) ** (1 / 3) == pytest.approx(lattice_constant, abs=0.01)
    assert atoms.get_stress()[:3].sum() == pytest.approx(0, abs=1e-4)
    assert bulk_modulus(atoms) == pytest.approx(modulus, rel=0.01)
    assert bulk_modulus(atoms) == pytest.approx(_from_stress(atoms), rel=0.02)


def _from_stress(atoms: Atoms, step: float = 0.01) -> float:
    """B = V d(tension)/dV by central differences of the mean stress, GPa."""
    tension, volumes = [], []
    for scale in (1 - step, 1 + step):
        moved = atoms.copy()
        moved.calc = EMT()
        moved.set_cell(atoms.cell.array * scale, scale_atoms=True)
        tension.append(moved.get_stress()[:3].mean())
        volumes.append(moved.get_volume())
    slope = (tension[1] - tension[0]) / (volumes[1] - volumes[0])
    return float(atoms.get_volume() * slope * GPA_PER_EV_A3)


def test_what_has_no_minimum_is_refused() -> None:
    stretched = bulk("Cu", a=4.2)
    stretched.calc = EMT()
    with pytest.raises(RecordError, match="E\\(V\\) of Cu has no minimum within ±4% in length"):
        bulk_modulus(stretched)
    with pytest.raises(RecordError, match="Cu has no volume without pressure"):
        relax_volume(bulk("Cu", a=2.5))
