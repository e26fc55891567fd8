from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from epitaxy.encoders.alignn import ALIGNN, EdgeGatedConvolution, Links
from epitaxy.errors import ConfigError
from epitaxy.graph.collate import collate
from epitaxy.graph.record import CrystalRecord


def bent(degrees: float) -> CrystalRecord:
    """Water-like: two bonds of 1 Å; from 140 degrees on the hydrogens are 1.88 Å apart or more."""
    angle = np.deg2rad(degrees)
    ends = np.array([[1.0, 0, 0], [np.cos(angle), np.sin(angle), 0]])
    positions = np.concatenate([np.zeros((1, 3)), ends])
    return CrystalRecord("bent", [8, 1, 1], positions, np.zeros((3, 3)), np.zeros(3, bool))


def test_forces_have_a_three_body_part(encoded: Any) -> None:
    """With all distances fixed only an angle can tell, and pull."""
    torch.manual_seed(0)
    encoder = ALIGNN(16, 8, cutoff=1.85, angle_cutoff=1.85).double()
    states = [encoded(encoder, bent(degrees)).node for degrees in (140.0, 170.0)]
    assert (states[0] - states[1]).abs().max() > 1e-3
    plain = ALIGNN(16, 8, cutoff=1.85, angle_cutoff=0.9).double()  # no bond is short enough
    states = [encoded(plain, bent(degrees)).node for degrees in (140.0, 170.0)]
    torch.testing.assert_close(states[0], states[1], rtol=0.0, atol=1e-12)


def test_the_pull_on_an_angle_is_the_slope_of_the_energy(encoded: Any) -> None:
    torch.manual_seed(0)
    encoder = ALIGNN(16, 8, cutoff=1.85, angle_cutoff=1.85).double().eval()
    batch = collate([bent(150.0)], [encoder.spec], (), torch.float64)
    batch = batch.replace(positions=batch.positions.requires_grad_())
    (gradient,) = torch.autograd.grad(encoder(batch).node.sum(), batch.positions)
    tangent = torch.tensor([-np.sin(np.deg2rad(150.0)), np.cos(np.deg2rad(150.0)), 0.0])
    step = np.rad2deg(1e-4)
    ahead, behind = (encoded(encoder, bent(150.0 + k * step)).node.sum() for k in (1, -1))
    slope = (ahead - behind) / 2e-4
    assert abs(slope) > 1e-3
    torch.testing.assert_close(gradient[2] @ tangent, slope, rtol=1e-6, atol=0.0)


def test_the_convolution_is_its_formula() -> None:
    torch.manual_seed(0)
    layer = EdgeGatedConvolution(3, "none", 0.5, updates_edges=True).double()
    node, edge = torch.randn(3, 3).double(), torch.randn(4, 3).double()
    source, target = torch.tensor([0, 1, 2, 0]), torch.tensor([1, 2, 1, 2])
    weight = torch.tensor([1.0, 0.5, 0.25, 0.0]).double()

    def affine(linear: Any, row: torch.Tensor) -> torch.Tensor:
        return linear.weight @ row + linear.bias

    def silu(x: torch.Tensor) -> torch.Tensor:
        return x / (1 + torch.exp(-x))

    gates, opened = [], []
    for k in range(4):
        gate = affine(layer.source_gate, node[source[k]]) + affine(layer.edge_gate, edge[k])
        gates.append(gate + affine(layer.target_gate, node[target[k]]))
        opened.append(weight[k] / (1 + torch.exp(-gates[k])))
    rows = []
    for i in range(3):
        into = [k for k in range(4) if target[k] == i]
        sent = sum((opened[k] * affine(layer.send, node[source[k]]) for k in into), torch.zeros(3))
        share = sum((opened[k] for k in into), torch.full((3,), 0.5).double())
        rows.append(node[i] + silu(affine(layer.keep, node[i]) + sent / share))
    new_node, new_edge = layer(node, edge, Links(source, target, weight))
    torch.testing.assert_close(new_node, torch.stack(rows))
    torch.testing.assert_close(new_edge, edge + silu(torch.stack(gates)))


@pytest.mark.parametrize("name", ["alignn", "alignn_paper"])
def test_self_images_make_the_paper_preset_depend_on_the_cell(
    name: str, preset: Any, encoded: Any, repeated: Any
) -> None:
    """Simple cubic polonium: one atom, whose six bonds all lead to its own images."""
    encoder = preset(
        name, width=16, embedding_width=8, max_neighbors=6 if "paper" in name else None
    )
    cubic = CrystalRecord("Po", [84], np.zeros((1, 3)), np.eye(3) * 3.35)
    small, large = encoded(encoder, cubic), encoded(encoder, repeated(cubic, (2, 1, 1)))
    difference = (large.node - small.node).abs().max()
    assert (difference < 1e-9) == (name == "alignn")


def test_sizes_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match="angular ≥ 1"):
        ALIGNN(8, 8, angular=0)
    with pytest.raises(ConfigError, match="did you mean 'poly6'"):
        ALIGNN(8, 8, envelope="poly")
