from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from epitaxy.encoders.cgcnn import CGCNN
from epitaxy.encoders.contract import Encoding
from epitaxy.encoders.tensornet import TensorNet
from epitaxy.encoders.torchmd_et import EquivariantTransformer
from epitaxy.errors import ConfigError
from epitaxy.graph.batch import CrystalBatch
from epitaxy.graph.collate import collate
from epitaxy.graph.record import CrystalRecord, Label
from epitaxy.heads.model import Model
from epitaxy.objectives.denoising import Denoising
from epitaxy.objectives.noise import NOISE

EQUIVARIANT = {
    "torchmd_et": lambda: EquivariantTransformer(16, 2, heads=2, cutoff=4.0, num_basis=8),
    "tensornet": lambda: TensorNet(8, 1, cutoff=4.0, num_basis=8),
}


class Constant(nn.Module):
    """A head that names the same vector for every atom."""

    def forward(self, encoding: Encoding) -> Tensor:
        assert encoding.node is not None
        return encoding.node.new_tensor([1.0, 0.0, -2.0]).expand(len(encoding.node), 3)


def moved(record: CrystalRecord, noise: np.ndarray) -> CrystalRecord:
    label = Label(noise, "Å", per_atom=True)
    return record.replace(positions=record.positions + label.value, labels={"noise": label})


def batch_of(records: list[CrystalRecord], encoder: Any) -> CrystalBatch:
    return collate(records, [encoder.spec], [NOISE], torch.float64)


def model_of(encoder: Any, objective: Denoising) -> Model:
    torch.manual_seed(1)
    return Model(encoder, objective.heads(encoder)).double().eval()


@pytest.mark.parametrize(
    ("arguments", "total"),
    [
        # Errors by hand in units of σ = 0.2 Å: (0, 0.5, −2), (1, −1.5, 0).
        ({"loss": "l1"}, 5.0),
        ({"loss": "mse"}, 7.5),
        ({"loss": "huber", "delta": 1.0}, 0.125 + 1.5 + 0.5 + 1.0),
        # In Å: (0.8, 0.1, −2), (1, −0.3, −1.6).
        ({"loss": "l1", "target_scale": "one"}, 5.8),
        ({"loss": "mse", "target_scale": "one"}, 8.3),
    ],
)
def test_the_loss_by_hand(
    encoder: Any, crystals: Any, arguments: dict[str, Any], total: float
) -> None:
    objective = Denoising(sigma=0.2, head="scalar", **arguments)
    model = Model(encoder, {"noise": Constant()}).double()
    noise = np.array([[0.2, -0.1, 0.0], [0.0, 0.3, -0.4]])
    batch = batch_of([moved(crystals.triclinic(1, 2), noise)], encoder)
    terms = objective.terms(model, (batch,))
    assert float(terms["noise"].total) == pytest.approx(total, rel=1e-6)
    assert terms["noise"].count == 6
    assert objective.counts((batch,)) == {"noise": 6}


@pytest.mark.parametrize(("scale", "angstrom"), [("sigma", 0.2), ("one", 1.0)])
def test_predictions_are_displacements_in_angstrom(
    encoder: Any, crystals: Any, scale: Any, angstrom: float
) -> None:
    objective = Denoising(sigma=0.2, head="scalar", target_scale=scale)
    model = Model(encoder, {"noise": Constant()}).double()
    predicted = objective.predict(model, batch_of([crystals.triclinic(1, 3)], encoder))
    expected = angstrom * torch.tensor([[1.0, 0.0, -2.0]] * 3, dtype=torch.float64)
    torch.testing.assert_close(predicted["noise"], expected)
    assert objective.units == {"noise": "Å"}


def turned(record: CrystalRecord, turn: np.ndarray) -> CrystalRecord:
    return record.replace(positions=record.positions @ turn, cell=record.cell @ turn)


def turn_of(determinant: float) -> np.ndarray:
    matrix, _ = np.linalg.qr(np.random.default_rng(7).normal(size=(3, 3)))
    return matrix * np.sign(np.linalg.det(matrix)) * determinant


@pytest.mark.parametrize("determinant", [1.0, -1.0], ids=["rotation", "mirror"])
@pytest.mark.parametrize("name", EQUIVARIANT)
def test_the_equivariant_head_turns_with_the_crystal(
    crystals: Any, name: str, determinant: float
) -> None:
    torch.manual_seed(0)
    encoder = EQUIVARIANT[name]()
    model = model_of(encoder, Denoising(head="equivariant"))
    turn = turn_of(determinant)
    records = [crystals.triclinic(1, 4), crystals.triclinic(2, 3)]
    before, after = (
        Denoising().predict(model, batch_of(several, encoder))["noise"].detach()
        for several in (records, [turned(record, turn) for record in records])
    )
    expected = before @ torch.from_numpy(turn)
    assert (expected - before).abs().max() > 0.1 * before.abs().max()
    torch.testing.assert_close(after, expected, rtol=0, atol=1e-9 * float(before.abs().max()))


@pytest.mark.parametrize("name", [*EQUIVARIANT, "cgcnn"])
def test_the_scalar_head_names_the_same_vector_however_the_crystal_lies(
    crystals: Any, name: str
) -> None:
    torch.manual_seed(0)
    made = {**EQUIVARIANT, "cgcnn": lambda: CGCNN(8, 2, cutoff=4.0)}
    encoder = made[name]()
    objective = Denoising(head="scalar")
    model = model_of(encoder, objective)
    record, half = crystals.triclinic(1, 4), np.diag([-1.0, -1.0, 1.0])
    (view,) = objective.views(record, np.random.default_rng(0))
    noise = view.labels["noise"].value
    lying = moved(turned(record, half), noise @ half)
    (before, after) = (batch_of([one], encoder) for one in (view, lying))
    first, second = (objective.predict(model, batch)["noise"] for batch in (before, after))
    assert first.abs().min() > 0
    torch.testing.assert_close(first, second)
    # What it should name turned by 180° about z: right for one is wrong for the other.
    turned_noise = before.labels["noise"] * torch.tensor([-1.0, -1.0, 1.0])
    torch.testing.assert_close(after.labels["noise"], turned_noise)


def test_atoms_on_symmetric_sites_are_where_they_belong(crystals: Any) -> None:
    torch.manual_seed(0)
    encoder = EQUIVARIANT["torchmd_et"]()
    model = model_of(encoder, Denoising())
    for record in (crystals.rocksalt(), crystals.fcc()):
        predicted = Denoising().predict(model, batch_of([record], encoder))["noise"]
        assert predicted.abs().max() < 1e-12


def test_auto_takes_vectors_where_the_encoder_has_them() -> None:
    vectors, plain = EQUIVARIANT["torchmd_et"](), CGCNN(8, 1, cutoff=4.0)
    assert set(Denoising().heads(vectors)) == {"vector"}
    assert set(Denoising().heads(plain)) == {"noise"}
    assert set(Denoising(head="scalar").heads(vectors)) == {"noise"}
    assert Denoising().requires == Denoising(head="scalar").requires == {"node"}
    assert Denoising(head="equivariant").requires == {"node", "vector"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"head": "equivarient"}, "did you mean 'equivariant'"),
        ({"target_scale": "sigm"}, "did you mean 'sigma'"),
        ({"target_scale": "one", "sigma": -0.1}, "must be > 0"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Denoising(**arguments)


@pytest.mark.parametrize("head", ["scalar", "equivariant"])
def test_an_empty_batch_gives_a_zero_term_with_a_slope(head: Any) -> None:
    encoder = EQUIVARIANT["torchmd_et"]()
    objective = Denoising(head=head)
    model = model_of(encoder, objective)
    term = objective.terms(model, (batch_of([], encoder),))["noise"]
    assert (float(term.total.detach()), term.count) == (0.0, 0)
    term.total.backward()


def test_a_few_steps_remove_noise_that_symmetry_makes_plain(crystals: Any) -> None:
    """In a stretched rocksalt each atom belongs in the middle of its neighbours."""
    torch.manual_seed(0)
    encoder = EQUIVARIANT["torchmd_et"]()
    objective = Denoising(remove_mean=True, loss="mse")
    model = model_of(encoder, objective)
    rng = np.random.default_rng(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        views = [objective.views(crystals.rocksalt(), rng)[0] for _ in range(4)]
        term = objective.terms(model, (batch_of(views, encoder),))["noise"]
        optimizer.zero_grad()
        (term.total / term.count).backward()
        optimizer.step()
    fresh = [objective.views(crystals.rocksalt(), rng)[0] for _ in range(16)]
    batch = batch_of(fresh, encoder)
    error = objective.predict(model, batch)["noise"] - batch.labels["noise"]
    assert error.square().mean() < 0.5 * batch.labels["noise"].square().mean()
