"""Gradients of force and stress losses, which are second derivatives of the energy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from epitaxy.encoders.cgcnn import CGCNN
from epitaxy.encoders.tensornet import TensorNet
from epitaxy.encoders.torchmd_et import EquivariantTransformer
from epitaxy.graph.collate import collate
from epitaxy.graph.record import LabelField
from epitaxy.heads.model import Model
from epitaxy.objectives.energy_force_stress import EnergyForceStress

FIELDS = (
    LabelField("energy", "eV"),
    LabelField("forces", "eV/Å", (3,), per_atom=True),
    LabelField("stress", "eV/Å^3", (3, 3)),
)
ENCODERS: dict[str, Callable[[], Any]] = {
    "cgcnn": lambda: CGCNN(6, 2, cutoff=3.5, num_basis=6),
    "torchmd_et": lambda: EquivariantTransformer(6, 2, heads=2, cutoff=3.5, num_basis=6),
    "tensornet": lambda: TensorNet(4, 1, cutoff=3.5, num_basis=6),
}
STENCIL = {-2: 1 / 12, -1: -2 / 3, 1: 2 / 3, 2: -1 / 12}
STEP = 1e-3
"""Along a direction of length 1 among thousands of parameters of order 0.1."""
RELATIVE = 1e-8


@pytest.mark.parametrize("loss", ["mse", "l2norm"])
@pytest.mark.parametrize("term", ["forces", "stress"])
@pytest.mark.parametrize("name", ENCODERS)
def test_they_are_the_slopes_of_the_loss(name: str, term: str, loss: str, crystals: Any) -> None:
    """Five-point differences of the loss along a random direction of all parameters."""
    objective = EnergyForceStress(
        energy_weight=0.0,
        force_weight=float(term == "forces"),
        stress_weight=float(term == "stress"),
        force_loss=loss,
        stress_loss=loss,
        hidden=(6,),
    )
    torch.manual_seed(3)
    encoder = ENCODERS[name]()
    model = Model(encoder, objective.heads(encoder)).double()
    records = [crystals.labelled(crystals.triclinic(seed, 2 + seed), seed) for seed in (0, 1)]
    batch = collate(records, [encoder.spec], FIELDS, torch.float64)

    def value() -> Tensor:
        made = objective.terms(model, (batch,))[term]
        return made.total / made.count

    value().backward()
    parameters = [p for p in model.parameters() if p.requires_grad]
    direction = [torch.randn_like(p) for p in parameters]
    length = torch.stack([part.square().sum() for part in direction]).sum().sqrt()
    direction = [part / length for part in direction]
    slope = sum(
        float((p.grad * part).sum())
        for p, part in zip(parameters, direction, strict=True)
        if p.grad is not None
    )
    numerical = 0.0
    start = [p.detach().clone() for p in parameters]
    for steps, factor in STENCIL.items():
        with torch.no_grad():
            for p, origin, part in zip(parameters, start, direction, strict=True):
                p.copy_(origin + steps * STEP * part)
            numerical += factor * float(value()) / STEP
    assert abs(numerical) > 1e-6  # there is a slope to compare
    assert abs(slope - numerical) <= RELATIVE * abs(numerical)
