"""Forces and stress as derivatives of an energy."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from epitaxy.graph.batch import CrystalBatch
from epitaxy.shapes import Cells, Forces, GraphScalars, Stresses

MIN_VOLUME = 1e-6
"""Å³. Crystals below this (missing lattice vectors) have no stress."""


def energy_and_derivatives(
    energy_fn: Callable[[CrystalBatch], GraphScalars],
    batch: CrystalBatch,
    *,
    forces: bool,
    stress: bool,
    create_graph: bool,
) -> tuple[GraphScalars, Forces | None, Stresses | None]:
    """Returns energies (eV), forces (eV/Å) and stresses (eV/Å³, tension positive).

    With a symmetric strain ``S = ½ (ε + εᵀ)`` acting on row vectors, ``r' = r + r S`` for
    positions and lattice vectors alike, ``F = −∂E/∂r`` and ``σ = (1/V) ∂E/∂ε`` at ``ε = 0``, with
    ``V = |det cell|``. Edges are those of the batch. Works under ``torch.no_grad``.

    Args:
        energy_fn: Total energy of each crystal, differentiable in positions and cell.
        batch: Crystals.
        forces: Whether to compute forces (``None`` otherwise).
        stress: Whether to compute stress (``None`` otherwise); it is zero for crystals without
            a volume, see ``has_volume``.
        create_graph: Whether the results will be differentiated further, as in training.
    """
    if not (forces or stress):
        return energy_fn(batch), None, None
    with torch.enable_grad():
        positions = batch.positions.detach().requires_grad_(True)
        strain = torch.zeros_like(batch.cell).requires_grad_(stress)
        moved = batch.replace(positions=positions)
        energy = energy_fn(_strained(moved, strain) if stress else moved)
        inputs = [positions] * forces + [strain] * stress
        gradients = torch.autograd.grad(
            energy.sum(), inputs, create_graph=create_graph, materialize_grads=True
        )
    force = -gradients[0] if forces else None
    stresses = _per_volume(gradients[-1], batch.cell) if stress else None
    return (energy if create_graph else energy.detach()), force, stresses


def has_volume(cell: Cells) -> Tensor:
    """Returns which cells span a volume, (graphs,) bool: the others have no stress."""
    return torch.linalg.det(cell).abs() > MIN_VOLUME


def _strained(batch: CrystalBatch, strain: Stresses) -> CrystalBatch:
    # Only the symmetric part: a rotation changes no energy, and its derivative is pure noise.
    symmetric = 0.5 * (strain + strain.transpose(-1, -2))
    shift = torch.einsum("na,nab->nb", batch.positions, symmetric[batch.graph_index])
    return batch.replace(
        positions=batch.positions + shift, cell=batch.cell + batch.cell @ symmetric
    )


def _per_volume(virial: Stresses, cell: Cells) -> Stresses:
    defined = has_volume(cell)
    volume = torch.where(defined, torch.linalg.det(cell).abs(), 1.0)
    return torch.where(defined[:, None, None], virial / volume[:, None, None], 0.0)
