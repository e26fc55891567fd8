from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from epitaxy.encoders.cgcnn import CGCNN
from epitaxy.encoders.contract import Encoding
from epitaxy.encoders.tensornet import TensorNet
from epitaxy.encoders.torchmd_et import EquivariantTransformer
from epitaxy.errors import ConfigError
from epitaxy.graph.batch import CrystalBatch
from epitaxy.graph.collate import collate
from epitaxy.graph.record import CrystalRecord
from epitaxy.graph.spec import GraphSpec
from epitaxy.heads.model import Model
from epitaxy.objectives.derivative_denoising import DerivativeDenoising
from epitaxy.objectives.energy_force_stress import EnergyForceStress
from epitaxy.objectives.noise import NOISE

ENCODERS = {
    "cgcnn": lambda: CGCNN(8, 2, cutoff=4.0),
    "torchmd_et": lambda: EquivariantTransformer(16, 2, heads=2, cutoff=4.0, num_basis=8),
    "tensornet": lambda: TensorNet(8, 1, cutoff=4.0, num_basis=8),
}
STEP = 1e-5


class Springs(nn.Module):
    """State of an atom: ``½ k |x̃ − x|²``, for springs that tie each atom to where it belongs."""

    spec = GraphSpec("radius", 3.0)
    provides = frozenset({"node", "position_grad"})
    node_width = 1

    def __init__(self, stiffness: float, origin: np.ndarray) -> None:
        super().__init__()
        self.stiffness = stiffness
        self.origin = torch.from_numpy(origin)

    def forward(self, batch: CrystalBatch) -> Encoding:
        square = (batch.positions - self.origin).square().sum(-1, keepdim=True)
        return Encoding(node=0.5 * self.stiffness * square)


def sprung(objective: DerivativeDenoising, stiffness: float, record: CrystalRecord) -> Model:
    encoder: Any = Springs(stiffness, record.positions)
    model = Model(encoder, objective.heads(encoder)).double()
    with torch.no_grad():
        model.head["scalar"].out.weight.fill_(1.0)
        model.head["scalar"].out.bias.fill_(7.0)
    return model


def view_batch(
    objective: DerivativeDenoising, records: list[CrystalRecord], encoder: Any
) -> CrystalBatch:
    rng = np.random.default_rng(4)
    views = [objective.views(record, rng)[0] for record in records]
    return collate(views, [encoder.spec], [NOISE], torch.float64)


@pytest.mark.parametrize(
    ("constant", "stiffness"), [("inverse_sigma", 4.0), ("one", 1.0), ("inverse_variance", 16.0)]
)
def test_springs_of_the_right_stiffness_have_no_loss(
    crystals: Any, constant: Any, stiffness: float
) -> None:
    objective = DerivativeDenoising(sigma=0.25, constant=constant, hidden=())
    record = crystals.triclinic(1, 5)
    for factor in (1.0, 3.0, -1.0):  # −1: a crystal that falls apart
        model = sprung(objective, factor * stiffness, record)
        batch = view_batch(objective, [record], model.encoder)
        noise = batch.labels["noise"]
        term = objective.terms(model, (batch,))["noise"]
        # F = −k δ against −c δ: |k − c| Σ|δ|.
        expected = abs(factor - 1.0) * stiffness * float(noise.abs().sum())
        assert float(term.total.detach()) == pytest.approx(expected, abs=1e-12)
        assert term.count == 15
        predicted = objective.predict(model, batch)["noise"]
        torch.testing.assert_close(predicted, factor * noise)
        assert not predicted.requires_grad


def test_mse_is_score_matching(crystals: Any) -> None:
    objective = DerivativeDenoising(
        sigma=0.5, constant="inverse_variance", loss="mse", hidden=()
    )  # c = 4
    record = crystals.triclinic(1, 5)
    model = sprung(objective, 1.0, record)
    batch = view_batch(objective, [record], model.encoder)
    total = float(objective.terms(model, (batch,))["noise"].total.detach())
    assert total == pytest.approx(9.0 * float(batch.labels["noise"].square().sum()))


@pytest.mark.parametrize("name", ENCODERS)
def test_the_gradient_of_the_loss_is_its_finite_difference(crystals: Any, name: str) -> None:
    torch.manual_seed(0)
    encoder: Any = ENCODERS[name]()
    objective = DerivativeDenoising(loss="mse", hidden=(8,))
    model = Model(encoder, objective.heads(encoder)).double()
    batch = view_batch(objective, [crystals.triclinic(s, 4) for s in (1, 2)], encoder)
    parameters = list(model.parameters())
    generator = torch.Generator().manual_seed(2)
    direction = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]

    def loss(step: float) -> float:
        with torch.no_grad():
            for parameter, part in zip(parameters, direction, strict=True):
                parameter.add_(step * part)
            term = objective.terms(model, (batch,))["noise"]
            for parameter, part in zip(parameters, direction, strict=True):
                parameter.sub_(step * part)
        return float(term.total) / term.count

    term = objective.terms(model, (batch,))["noise"]
    slopes = torch.autograd.grad(term.total / term.count, parameters, materialize_grads=True)
    pairs = zip(slopes, direction, strict=True)
    analytic = float(torch.stack([(slope * part).sum() for slope, part in pairs]).sum())
    numerical = (loss(STEP) - loss(-STEP)) / (2 * STEP)
    assert abs(analytic) > 1e-3
    assert analytic == pytest.approx(numerical, rel=1e-6)


def test_its_weights_are_those_of_a_force_training(crystals: Any) -> None:
    torch.manual_seed(0)
    encoder: Any = ENCODERS["cgcnn"]()
    denoising, forces = DerivativeDenoising(), EnergyForceStress()
    first = Model(encoder, denoising.heads(encoder)).double()
    second = Model(encoder, forces.heads(encoder)).double()
    second.load_state_dict(first.state_dict(), strict=True)
    # Untouched statistics: scale 1, no reference. The same network is the same energy.
    batch = view_batch(denoising, [crystals.triclinic(1, 4)], encoder)
    pulled = forces.predict(second, batch)["forces"]
    torch.testing.assert_close(denoising.predict(first, batch)["noise"], -0.1 * pulled)


def test_forces_cannot_follow_the_mean_of_the_noise(crystals: Any) -> None:
    torch.manual_seed(0)
    encoder: Any = ENCODERS["torchmd_et"]()
    objective = DerivativeDenoising()
    model = Model(encoder, objective.heads(encoder)).double()
    batch = view_batch(objective, [crystals.triclinic(1, 4)], encoder)
    predicted = objective.predict(model, batch)["noise"]
    assert predicted.abs().max() > 1e-4
    assert predicted.sum(0).abs().max() < 1e-12
    assert batch.labels["noise"].sum(0).abs().max() > 0.01


def test_an_empty_batch_gives_a_zero_term_with_a_slope() -> None:
    encoder: Any = ENCODERS["torchmd_et"]()
    objective = DerivativeDenoising()
    model = Model(encoder, objective.heads(encoder)).double()
    term = objective.terms(model, (view_batch(objective, [], encoder),))["noise"]
    assert (float(term.total.detach()), term.count) == (0.0, 0)
    term.total.backward()


def test_coupled_encoders_are_refused_unless_told_otherwise() -> None:
    assert DerivativeDenoising().forbids_coupling
    assert not DerivativeDenoising(allow_coupling=True).forbids_coupling


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"constant": "inverse_sigm"}, "did you mean 'inverse_sigma'"),
        ({"constant": "inverse_variance", "sigma": 0.0}, "must be > 0"),
        ({"activation": "relu"}, "no curvature"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DerivativeDenoising(**arguments)
