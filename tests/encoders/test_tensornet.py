from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from epitaxy.encoders.tensornet import TensorNet
from epitaxy.encoders.tensors import unpack
from epitaxy.errors import ConfigError
from epitaxy.graph.collate import collate
from epitaxy.graph.record import CrystalRecord


def test_an_interaction_is_its_formula_on_whole_matrices(crystals: Any) -> None:
    torch.manual_seed(0)
    encoder = TensorNet(2, 1, cutoff=3.5, num_basis=4).double()
    block = encoder.interaction[0]
    batch = collate([crystals.triclinic(1, 3)], [encoder.spec], (), torch.float64)
    graph, distances = batch.graph(encoder.spec), batch.distances(encoder.spec)
    u = distances / 3.5
    weight = (1 - 28 * u**6 + 48 * u**7 - 21 * u**8)[:, None]
    basis = encoder.basis(distances)
    from epitaxy.encoders.neighborhoods import edges_of

    state = torch.randn(3, 10, 2).double()
    state[:, 4:7] -= state[:, 4:7].mean(1, keepdim=True)
    found = unpack(block(state, edges_of(batch, encoder.spec), basis, weight[..., None]))
    factors = block.radial(basis).view(-1, 3, 2) * weight[..., None]

    def parts(x: torch.Tensor) -> list[torch.Tensor]:
        trace = x.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None] * torch.eye(3).double()
        skew = 0.5 * (x - x.transpose(-1, -2))
        return [trace, skew, 0.5 * (x + x.transpose(-1, -2)) - trace]

    def mixed(x: torch.Tensor, mix: Any) -> torch.Tensor:
        weights = [linear.weight for linear in mix.parts]
        pieces = zip(weights, parts(x), strict=True)
        return sum(torch.einsum("oc,ncab->noab", w, piece) for w, piece in pieces)

    def bounded(x: torch.Tensor) -> torch.Tensor:
        return x / (x.square().sum((-1, -2), keepdim=True) + 1)

    x = bounded(unpack(state))
    y = mixed(x, block.before)
    message = torch.zeros_like(y)
    for k in range(graph.num_edges):
        pieces = parts(y[graph.source[k]])
        sent = sum(factors[k, r][:, None, None] * piece for r, piece in enumerate(pieces))
        message[graph.target[k]] += sent
    change = mixed(bounded(y @ message + message @ y), block.after)
    torch.testing.assert_close(found, x + change + change @ change)


def test_reflections_turn_vectors_and_leave_states(
    preset: Any, encoded: Any, crystals: Any
) -> None:
    record = crystals.triclinic(3, 4)
    mirrored = record.replace(positions=-record.positions, cell=-record.cell)
    encoder = preset("tensornet")
    one, other = encoded(encoder, record), encoded(encoder, mirrored)
    torch.testing.assert_close(one.node, other.node, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(one.vector, -other.vector, rtol=1e-9, atol=1e-9)
    assert one.vector.abs().max() > 1e-3


def test_lone_atoms_are_told_apart_only_with_a_self_term(preset: Any, encoded: Any) -> None:
    lone = [CrystalRecord("gas", [z], np.zeros((1, 3)), np.eye(3) * 30) for z in (2, 10)]
    for name, told in (("tensornet", True), ("tensornet_paper", False)):
        helium, neon = encoded(preset(name, width=16), *lone).node
        assert (float((helium - neon).abs().max()) > 1e-6) == told


def test_it_can_tell_angles_that_distances_do_not(preset: Any, encoded: Any) -> None:
    """Two bonds of 1 Å whose ends do not see each other, at 120 and at 170 degrees."""
    encoder = preset("tensornet", cutoff=1.7)

    def bent(degrees: float) -> CrystalRecord:
        angle = np.deg2rad(degrees)
        places = [[0, 0, 0], [1, 0, 0], [np.cos(angle), np.sin(angle), 0]]
        return CrystalRecord("bent", [8, 1, 1], places, np.zeros((3, 3)), [False] * 3)

    one, other = (encoded(encoder, bent(degrees)).node for degrees in (120.0, 170.0))
    assert (one - other).abs().max() > 1e-4


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match="width ≥ 1"):
        TensorNet(0)
