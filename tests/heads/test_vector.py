from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from epitaxy.encoders.contract import Encoding
from epitaxy.errors import NeedsError
from epitaxy.heads.vector import ComponentHead, GatedEquivariantBlock, VectorHead


def states(atoms: int = 5, scalars: int = 4, vectors: int = 3) -> Encoding:
    generator = torch.Generator().manual_seed(0)
    node = torch.randn(atoms, scalars, generator=generator, dtype=torch.float64)
    vector = torch.randn(atoms, 3, vectors, generator=generator, dtype=torch.float64)
    return Encoding(node=node, vector=vector)


def orthogonal(determinant: float) -> Tensor:
    matrix, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
    return torch.from_numpy(matrix * np.sign(np.linalg.det(matrix)) * determinant)


def test_a_gated_block_by_hand() -> None:
    block = GatedEquivariantBlock(1, 1, 1, 1, activation="none").double()
    with torch.no_grad():
        block.measured.weight.fill_(2.0)
        block.mixed.weight.fill_(-1.0)
        block.hidden.weight.copy_(torch.tensor([[1.0, 0.5]]))
        block.hidden.bias.fill_(0.25)
        block.out.weight.copy_(torch.tensor([[1.0], [3.0]]))
        block.out.bias.copy_(torch.tensor([0.0, -1.0]))
    # |2 v|² = 8, so the length is √9 − 1 = 2; the hidden feature 4 + 0.5 · 2 + 0.25 = 5.25.
    vector = torch.tensor([[[1.0], [0.0], [-1.0]]], dtype=torch.float64)
    node, turned = block(torch.tensor([[4.0]], dtype=torch.float64), vector)
    assert node.tolist() == [[5.25]]
    gate = 3 * 5.25 - 1
    assert turned.tolist() == [[[-gate], [0.0], [gate]]]


@pytest.mark.parametrize("hidden", [(), (6,), (6, 2)])
@pytest.mark.parametrize("determinant", [1.0, -1.0])
def test_vectors_turn_and_are_mirrored_with_the_crystal(
    hidden: tuple[int, ...], determinant: float
) -> None:
    torch.manual_seed(0)
    head = VectorHead(4, 3, hidden).double()
    before, turn = states(), orthogonal(determinant)
    assert before.vector is not None
    after = Encoding(node=before.node, vector=torch.einsum("iac,ab->ibc", before.vector, turn))
    expected = head(before) @ turn
    assert expected.norm(dim=-1).min() > 1e-3
    torch.testing.assert_close(head(after), expected, rtol=0, atol=1e-12)


def test_every_parameter_of_a_vector_head_learns() -> None:
    torch.manual_seed(0)
    head = VectorHead(4, 3, (6,)).double()
    head(states()).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in head.parameters())


def test_vectors_that_vanish_by_symmetry_give_finite_slopes_twice() -> None:
    torch.manual_seed(0)
    head = VectorHead(4, 3, (6,)).double()
    node, vector = torch.ones(2, 4).double(), torch.zeros(2, 3, 3).double().requires_grad_(True)
    result = head(Encoding(node=node, vector=vector))
    assert not result.any()
    (slope,) = torch.autograd.grad(result[:, 0].sum(), vector, create_graph=True)
    assert slope.any()
    slope.square().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in head.parameters())


def test_components_by_hand() -> None:
    head = ComponentHead(2, (1,), activation="relu")
    with torch.no_grad():
        head.hidden[0].weight.copy_(torch.tensor([[1.0, -1.0]]))
        head.hidden[0].bias.fill_(0.5)
        head.out.weight.copy_(torch.tensor([[1.0], [2.0], [-1.0]]))
        head.out.bias.copy_(torch.tensor([0.0, 0.0, 1.0]))
    found = head(Encoding(node=torch.tensor([[3.0, 1.0], [0.0, 4.0]])))
    assert found.tolist() == [[2.5, 5.0, -1.5], [0.0, 0.0, 1.0]]


def test_missing_states_are_refused() -> None:
    with pytest.raises(NeedsError, match="states and vectors"):
        VectorHead(4, 3)(Encoding(node=states().node))
    with pytest.raises(NeedsError, match="states of atoms"):
        ComponentHead(4)(Encoding(vector=states().vector))
