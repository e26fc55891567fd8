"""Forces and stress of energies that can be differentiated by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from epitaxy.graph.batch import CrystalBatch
from epitaxy.graph.collate import collate
from epitaxy.graph.record import CrystalRecord
from epitaxy.graph.spec import GraphSpec
from epitaxy.heads.derivatives import energy_and_derivatives, has_volume

SPEC = GraphSpec("radius", 3.0)
STIFFNESS, LENGTH = 1.7, 2.0


def springs(batch: CrystalBatch) -> Tensor:
    """½ k (d − d₀)² per bond; every bond is two directed edges."""
    graph = batch.graph(SPEC)
    stretch = batch.edge_vectors(SPEC).norm(dim=-1) - LENGTH
    energies = batch.positions.new_zeros(batch.num_graphs)
    return energies.index_add(
        0, batch.graph_index[graph.target], 0.25 * STIFFNESS * stretch.square()
    )


def batch_of(*records: CrystalRecord) -> CrystalBatch:
    return collate(records, [SPEC], dtype=torch.float64)


def molecule() -> CrystalRecord:
    positions = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 2.5]])
    return CrystalRecord("H2", np.array([1, 1]), positions, np.zeros((3, 3)), np.zeros(3, bool))


def simple_cubic(lattice: float) -> CrystalRecord:
    return CrystalRecord("Po", np.array([84]), np.zeros((1, 3)), np.eye(3) * lattice)


def both(batch: CrystalBatch, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
    settings = {"forces": True, "stress": True, "create_graph": False, **options}
    energy, forces, stress = energy_and_derivatives(springs, batch, **settings)
    assert forces is not None
    assert stress is not None
    return energy, forces, stress


def test_a_stretched_bond_pulls_its_atoms_together() -> None:
    energy, forces, stress = both(batch_of(molecule()))
    assert energy.item() == pytest.approx(0.5 * STIFFNESS * 0.25)
    pull = STIFFNESS * 0.5
    expected = torch.tensor([[0.0, 0.0, pull], [0.0, 0.0, -pull]]).double()
    torch.testing.assert_close(forces, expected)
    assert not stress.any()  # no cell: no stress, and nothing infinite


@pytest.mark.parametrize(("lattice", "sign"), [(2.5, 1), (1.8, -1)])
def test_tension_is_positive_and_has_the_size_of_the_virial(lattice: float, sign: int) -> None:
    # Three bonds per cell, one along each axis: σ_xx = k (a − d₀) · a / a³.
    crystal = simple_cubic(lattice)
    near = GraphSpec("radius", 3.0)
    batch = collate([crystal], [near], dtype=torch.float64)
    lengths = batch.edge_vectors(near).norm(dim=-1)
    bonds = lengths < 1.01 * lattice

    def nearest_springs(moved: CrystalBatch) -> Tensor:
        stretch = moved.edge_vectors(near).norm(dim=-1)[bonds] - LENGTH
        return (0.25 * STIFFNESS * stretch.square()).sum()[None]

    _, forces, stress = energy_and_derivatives(
        nearest_springs, batch, forces=True, stress=True, create_graph=False
    )
    expected = STIFFNESS * (lattice - LENGTH) / lattice**2
    assert expected * sign > 0
    torch.testing.assert_close(stress, expected * torch.eye(3).double()[None])
    assert not forces.any()


def test_a_left_handed_cell_has_the_same_stress(crystals: Any) -> None:
    record = crystals.triclinic(2, 4)
    mirrored = record.replace(cell=record.cell[[1, 0, 2]])
    assert np.linalg.det(record.cell) * np.linalg.det(mirrored.cell) < 0
    _, _, stress = both(batch_of(record, mirrored))
    torch.testing.assert_close(stress[0], stress[1])


def test_crystals_without_volume_do_not_disturb_the_others(crystals: Any) -> None:
    record = crystals.triclinic(2, 4)
    batch = batch_of(molecule(), record)
    _, _, stress = both(batch)
    _, _, alone = both(batch_of(record))
    assert has_volume(batch.cell).tolist() == [False, True]
    torch.testing.assert_close(stress[1], alone[0])
    assert torch.isfinite(stress).all()


def test_only_what_is_asked_for_is_computed(crystals: Any) -> None:
    batch = batch_of(crystals.triclinic(2, 4))
    settings = {"forces": False, "stress": False, "create_graph": True}
    seen: list[bool] = []

    def watched(moved: CrystalBatch) -> Tensor:
        seen.append(moved.positions.requires_grad or moved.cell.requires_grad)
        return springs(moved)

    assert energy_and_derivatives(watched, batch, **settings)[1:] == (None, None)
    assert seen == [False]  # nothing to differentiate twice
    _, forces, stress = energy_and_derivatives(watched, batch, **{**settings, "stress": True})
    assert forces is None
    assert stress is not None


def test_it_works_under_no_grad_and_detaches(crystals: Any) -> None:
    batch = batch_of(crystals.triclinic(2, 4))
    expected = both(batch)
    with torch.no_grad():
        for value, wanted in zip(both(batch), expected, strict=True):
            assert not value.requires_grad
            assert torch.equal(value, wanted)
    assert all(value.requires_grad for value in both(batch, create_graph=True)[1:])


def test_no_crystals_have_no_derivatives() -> None:
    energy, forces, stress = both(batch_of())
    assert (energy.shape, forces.shape, stress.shape) == ((0,), (0, 3), (0, 3, 3))
