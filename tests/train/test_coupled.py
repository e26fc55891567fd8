"""A coupled loss of several micro-batches has value and gradient of that of one batch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from epitaxy.objectives.contract import Coupling, Rows, Term
from epitaxy.train.coupled import couplings, resolved, share

SPLITS = [[7], [3, 4], [0, 7], [2, 0, 5], [1, 1, 1, 1, 1, 1, 1], [7, 0, 0]]
KINDS = torch.tensor([0, 1, 0, 2, 1, 1, 0])


def attraction(rows: Rows) -> Tensor:
    """The mean over pairs of one kind of exp(−d²) of one tensor times the other's product."""
    if not len(rows["kind"]):
        return rows["place"].sum()
    alike = (rows["kind"][:, None] == rows["kind"]).double()
    distances = (rows["place"][:, None] - rows["place"]).square().sum(-1)
    charges = rows["charge"][:, None] * rows["charge"]
    return (alike * charges * torch.exp(-distances)).mean()


class Network:
    """Makes rows of inputs, in whatever parts."""

    def __init__(self) -> None:
        made = torch.Generator().manual_seed(0)
        self.inputs = torch.randn(7, 3, generator=made, dtype=torch.float64)
        self.place = torch.randn(3, 2, generator=made, dtype=torch.float64).requires_grad_()
        self.charge = torch.randn(3, generator=made, dtype=torch.float64).requires_grad_()

    def terms(self, first: int, count: int) -> dict[str, Term | Coupling]:
        part = slice(first, first + count)
        inputs = self.inputs[part]
        rows = {
            "place": torch.tanh(inputs @ self.place),
            "kind": KINDS[part],
            "charge": inputs @ self.charge,
        }
        alone = Term(rows["charge"].square().sum(), count, 0.5)
        return {"pairs": Coupling(rows, attraction, 2.0), "alone": alone}

    def slopes(self, loss: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(loss, (self.place, self.charge))

    def whole(self) -> Tensor:
        """The loss of one batch, by plain autograd."""
        terms = self.terms(0, 7)
        pairs, alone = terms["pairs"], terms["alone"]
        assert isinstance(pairs, Coupling)
        assert isinstance(alone, Term)
        return 2.0 * attraction(pairs.rows) + 0.5 * alone.total / 7


def parted(network: Network, sizes: list[int]) -> list[dict[str, Term | Coupling]]:
    firsts = [sum(sizes[:index]) for index in range(len(sizes))]
    return [network.terms(*part) for part in zip(firsts, sizes, strict=True)]


@pytest.mark.parametrize("sizes", SPLITS, ids=str)
def test_value_and_gradient_are_those_of_one_batch(sizes: list[int]) -> None:
    network = Network()
    expected = network.whole()
    parts = parted(network, sizes)
    shared = share([couplings(terms) for terms in parts], gradients=True)
    total = torch.zeros((), dtype=torch.float64)
    for index, terms in enumerate(parts):
        for name, term in resolved(terms, shared, index).items():
            assert isinstance(term, Term)
            assert (term.count, term.weight) == (sizes[index], {"pairs": 2.0, "alone": 0.5}[name])
            total = total + term.weight * term.total / 7
    torch.testing.assert_close(total, expected, rtol=1e-12, atol=1e-12)
    for found, slope in zip(network.slopes(total), network.slopes(expected), strict=True):
        torch.testing.assert_close(found, slope, rtol=1e-10, atol=1e-12)
    assert shared["pairs"].count == 7
    assert set(shared["pairs"].gradients[0]) == {"place", "charge"}  # integers have no slope


@pytest.mark.parametrize("sizes", SPLITS, ids=str)
def test_without_gradients_the_value_remains(sizes: list[int]) -> None:
    network = Network()
    with torch.no_grad():
        parts = parted(network, sizes)
        shared = share([couplings(terms) for terms in parts], gradients=False)
        terms = [resolved(part, shared, index)["pairs"] for index, part in enumerate(parts)]
    expected = 7 * attraction(network.terms(0, 7)["pairs"].rows)  # type: ignore[union-attr]
    found = torch.stack([term.total for term in terms]).sum()
    torch.testing.assert_close(found, expected.detach(), rtol=1e-12, atol=1e-12)
    assert not found.requires_grad


def test_a_step_without_crystals_is_zero() -> None:
    network = Network()
    parts = parted(network, [0, 0])
    shared = share([couplings(terms) for terms in parts], gradients=True)
    for index, terms in enumerate(parts):
        term = resolved(terms, shared, index)["pairs"]
        assert float(term.total.detach()) == 0.0
        assert not any(slope.any() for slope in network.slopes(term.total))


def test_terms_of_single_crystals_stay_as_they_are() -> None:
    terms = Network().terms(0, 7)
    assert set(couplings(terms)) == {"pairs"}
    shared = share([couplings(terms)], gradients=True)
    assert resolved(terms, shared, 0)["alone"] is terms["alone"]
