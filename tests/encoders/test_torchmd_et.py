from __future__ import annotations

from typing import Any

import pytest
import torch

from epitaxy.encoders.torchmd_et import EquivariantTransformer
from epitaxy.errors import ConfigError
from epitaxy.graph.collate import collate


def silu(x: torch.Tensor) -> torch.Tensor:
    return x / (1 + torch.exp(-x))


@pytest.mark.parametrize("vector_cutoff", [False, True])
def test_a_layer_is_its_formula(crystals: Any, vector_cutoff: bool) -> None:
    torch.manual_seed(0)
    encoder = EquivariantTransformer(
        4, 1, heads=2, cutoff=3.5, num_basis=5, vector_cutoff=vector_cutoff
    ).double()
    layer = encoder.interaction[0]
    for linear in (layer.query, layer.key, layer.value, layer.distance_value, layer.output):
        torch.nn.init.normal_(linear.bias)
    batch = collate([crystals.triclinic(1, 3)], [encoder.spec], (), torch.float64)
    graph, distances = batch.graph(encoder.spec), batch.distances(encoder.spec)
    units = batch.edge_vectors(encoder.spec) / distances[:, None]
    basis = encoder.basis(distances)
    u = distances / 3.5
    weight = 1 - 28 * u**6 + 48 * u**7 - 21 * u**8
    x, v = torch.randn(3, 4).double(), torch.randn(3, 3, 4).double()
    s = layer.norm(x)
    scalars, vectors = [], []
    for i in range(3):
        m, w = torch.zeros(4).double(), torch.zeros(3, 4).double()
        for k in torch.nonzero(graph.target == i).flatten().tolist():
            j = int(graph.source[k])
            filters = silu(layer.distance_value(basis[k])) * layer.value(s[j])
            if vector_cutoff:
                filters = filters * weight[k]
            product = layer.query(s[i]) * layer.key(s[j]) * silu(layer.distance_key(basis[k]))
            for h in range(2):
                attention = silu(product[2 * h : 2 * h + 2].sum()) * weight[k]
                one, two, three = filters[6 * h : 6 * h + 6].split(2)
                part = slice(2 * h, 2 * h + 2)
                m[part] += attention * one
                w[:, part] += v[j][:, part] * two + units[k][:, None] * three
        u1, u2, u3 = layer.mix(v[i]).split(4, dim=-1)
        o1, o2, o3 = layer.output(m).split(4)
        scalars.append((u1 * u2).sum(0) * o2 + o3)
        vectors.append(u3 * o1 + w)
    from epitaxy.encoders.neighborhoods import edges_of

    dx, dv = layer(x, v, edges_of(batch, encoder.spec), basis, weight)
    torch.testing.assert_close(dx, torch.stack(scalars))
    torch.testing.assert_close(dv, torch.stack(vectors))


def test_own_images_are_neighbours_in_a_larger_cell(
    preset: Any, encoded: Any, crystals: Any, repeated: Any
) -> None:
    """Copper: all twelve neighbours of the one atom are its images."""
    for name, equal in (("torchmd_et", True), ("torchmd_et_paper", False)):
        encoder = preset(name, width=16, layers=1)
        assert ("supercell" in encoder.invariances) == equal
        small = encoded(encoder, crystals.fcc()).node
        large = encoded(encoder, repeated(crystals.fcc(), (2, 1, 1))).node
        assert (float((large - small).abs().max()) < 1e-9) == equal


def test_without_vector_cutoff_vectors_jump_where_a_neighbour_enters(
    preset: Any, encoded: Any, crystals: Any
) -> None:
    import numpy as np

    from epitaxy.graph.record import CrystalRecord

    def pair(distance: float) -> CrystalRecord:
        return CrystalRecord(
            "pair", [8, 26], [[0, 0, 0], [distance, 0, 0]], np.zeros((3, 3)), [False] * 3
        )

    for name, jumps in (("torchmd_et", False), ("torchmd_et_paper", True)):
        encoder = preset(name, width=16, layers=2)
        for layer in encoder.interaction:
            torch.nn.init.normal_(layer.distance_value.bias)
        cutoff = encoder.spec.cutoff
        inside, outside = (encoded(encoder, pair(cutoff + k * 1e-6)).vector for k in (-1, 1))
        assert (float((inside - outside).abs().max()) > 1e-6) == jumps


def test_self_loops_let_an_atom_attend_to_itself(crystals: Any, encoded: Any) -> None:
    torch.manual_seed(0)
    encoder = EquivariantTransformer(16, 1, self_loops=True)
    without = EquivariantTransformer(16, 1)
    without.load_state_dict(encoder.state_dict())
    gas = crystals.fcc().replace(cell=crystals.fcc().cell * 20)
    one, other = encoded(encoder, gas), encoded(without, gas)
    assert (one.node - other.node).abs().max() > 1e-4
    assert not one.vector.any()


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ConfigError, match="a width that heads divides"):
        EquivariantTransformer(10, 1, heads=4)
