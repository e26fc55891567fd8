from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from epitaxy.encoders.gate import gated_message


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    gates = 2.0 * torch.randn(5, 6, generator=generator).double()
    weight = torch.rand(5, 1, generator=generator).double()
    return gates.requires_grad_(), weight.requires_grad_()


@pytest.mark.parametrize("core", ["silu", "softplus"])
def test_value_is_the_formula(core: str) -> None:
    gates, weight = inputs()
    value = getattr(functional, core)(gates[:, 3:])
    expected = weight * torch.sigmoid(gates[:, :3]) * value
    torch.testing.assert_close(gated_message(gates, weight, core), expected)


@pytest.mark.parametrize("core", ["silu", "softplus"])
def test_first_and_second_derivatives_match_finite_differences(core: str) -> None:
    def message(gates: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return gated_message(gates, weight, core)

    assert torch.autograd.gradcheck(message, inputs())
    assert torch.autograd.gradgradcheck(message, inputs())


def test_no_edges_are_legal() -> None:
    gates, weight = (tensor[:0] for tensor in inputs())
    assert gated_message(gates, weight, "silu").shape == (0, 3)
