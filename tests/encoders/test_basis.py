from __future__ import annotations

import math

import pytest
import torch

from epitaxy.encoders.basis import GaussianBasis, cutoff_envelope
from epitaxy.errors import ConfigError


def test_the_basis_of_the_paper_by_hand() -> None:
    basis = GaussianBasis(41, 8.0).double()
    assert basis.centers[1].item() == pytest.approx(0.2)
    values = basis(torch.tensor([2.3]).double())[0]
    # 2.3 Å lies half a spacing from 2.2 and 2.4, one and a half from 2.0: exp(−0.25), exp(−2.25).
    assert values[11].item() == pytest.approx(math.exp(-0.25), abs=1e-6)
    assert values[12].item() == pytest.approx(math.exp(-0.25), abs=1e-6)
    assert values[10].item() == pytest.approx(math.exp(-2.25), abs=1e-6)


def test_start_and_width_are_in_angstrom_and_spacings() -> None:
    basis = GaussianBasis(5, 5.0, start=1.0, width=2.0)
    assert basis.centers.tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert basis(torch.tensor([4.0]))[0, 1].item() == pytest.approx(math.exp(-1.0))


@pytest.mark.parametrize(("size", "stop", "width"), [(1, 5.0, 1.0), (8, 0.0, 1.0), (8, 5.0, 0.0)])
def test_impossible_bases_are_refused(size: int, stop: float, width: float) -> None:
    with pytest.raises(ConfigError, match=f"size={size}"):
        GaussianBasis(size, stop, width=width)


def test_poly6_by_hand() -> None:
    half = cutoff_envelope("poly6", torch.tensor([3.0]).double(), 6.0)
    # 1 − 28/64 + 48/128 − 21/256
    assert half.item() == pytest.approx(1 - 0.4375 + 0.375 - 0.08203125, abs=1e-12)


def test_cosine_by_hand() -> None:
    third = cutoff_envelope("cosine", torch.tensor([2.0]).double(), 6.0)
    assert third.item() == pytest.approx(0.75, abs=1e-12)


@pytest.mark.parametrize(("name", "smooth"), [("poly6", 2), ("cosine", 1)])
def test_envelopes_vanish_with_their_derivatives(name: str, smooth: int) -> None:
    distances = torch.tensor([0.0, 6.0]).double().requires_grad_()
    value = cutoff_envelope(name, distances, 6.0)
    torch.testing.assert_close(value, torch.tensor([1.0, 0.0]).double())
    for _ in range(smooth):
        (value,) = torch.autograd.grad(value.sum(), distances, create_graph=True)
        assert value.abs().max() < 1e-12


def test_beyond_the_cutoff_they_stay_zero_and_none_is_one() -> None:
    beyond = torch.tensor([6.5, 100.0])
    for name, value in (("poly6", 0.0), ("cosine", 0.0), ("none", 1.0)):
        assert cutoff_envelope(name, beyond, 6.0).tolist() == pytest.approx([value] * 2, abs=1e-6)


def test_an_unknown_envelope_is_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'poly6'"):
        cutoff_envelope("poly", torch.ones(1), 6.0)
