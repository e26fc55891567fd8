from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from epitaxy.encoders.clusters import cluster_labels, other_clusters
from epitaxy.encoders.gatgnn import GATGNN, AugmentedAttention, CompositionAttention
from epitaxy.encoders.taps import tapped
from epitaxy.errors import ConfigError
from epitaxy.graph.collate import collate
from epitaxy.graph.record import CrystalRecord


def softplus(x: torch.Tensor) -> torch.Tensor:
    return torch.log1p(x.exp())


def test_the_attention_layer_is_its_formula() -> None:
    torch.manual_seed(0)
    layer = AugmentedAttention(3, 2, "none", 0.0).double()
    with torch.no_grad():
        layer.bias.copy_(torch.randn(3))
    node, edge = torch.randn(3, 3).double(), torch.randn(4, 3).double()
    source, target = torch.tensor([1, 2, 0, 1]), torch.tensor([0, 0, 1, 2])
    expected = []
    for i in range(3):
        into = [k for k in range(4) if target[k] == i]
        heads = []
        for h in range(2):
            project = layer.project[:, 3 * h : 3 * h + 3]
            p_i = [softplus(torch.cat([node[i], edge[k]]) @ project) for k in into]
            p_j = [softplus(torch.cat([node[source[k]], edge[k]]) @ project) for k in into]
            pairs = zip(p_i, p_j, strict=True)
            logits = [softplus(softplus(torch.cat(pair) @ layer.score[h])) for pair in pairs]
            shares = torch.softmax(torch.stack(logits), 0)
            heads.append(sum(share * p for share, p in zip(shares, p_j, strict=True)))
        expected.append(softplus(torch.stack(heads).mean(0) + layer.bias))
    weight = torch.ones(4, 1).double()
    found = layer(node, edge, weight, source, target)
    torch.testing.assert_close(found, torch.stack(expected))


def test_composition_attention_reads_the_state_and_the_fractions(crystals: Any) -> None:
    torch.manual_seed(0)
    attention = CompositionAttention(4).double()
    batch = collate([crystals.perovskite(), crystals.fcc()], [])
    node = torch.randn(6, 4).double()
    fractions = torch.zeros(2, 103).double()
    fractions[0, [55, 21, 7]] = torch.tensor([0.2, 0.2, 0.6]).double()  # Ba, Ti, O
    fractions[1, 28] = 1.0
    joined = torch.cat([node, fractions[batch.graph_index]], dim=1)
    hidden = softplus(joined @ attention.hidden.weight.T + attention.hidden.bias)
    expected = hidden @ attention.out.weight.T + attention.out.bias
    torch.testing.assert_close(attention(node, batch), expected)


@pytest.mark.parametrize("attention", ["composition", "cluster_fixed", "cluster_random"])
def test_weights_of_atoms_add_up_to_one(attention: Any, crystals: Any) -> None:
    encoder = GATGNN(8, 1, attention=attention)
    batch = collate([crystals.rocksalt(), crystals.fcc(), crystals.triclinic(4, 6)], [encoder.spec])
    with tapped(encoder) as seen:
        encoding = encoder(batch)
    shares = next(weights for tap, weights in seen if tap.over == "atoms")
    sums = torch.zeros(3, 1).index_add(0, batch.graph_index, shares)
    torch.testing.assert_close(sums, torch.ones(3, 1))
    assert encoding.graph.shape == (3, 8)


def groups(*centers: float) -> CrystalRecord:
    """Two atoms around each place along x."""
    places = [[c + s, 0, 0] for c in centers for s in (-0.4, 0.4)]
    return CrystalRecord("groups", [6, 6, 8, 8, 14, 14][: len(places)], places, np.eye(3) * 60.0)


def test_clusters_are_groups_of_near_atoms() -> None:
    batch = collate([groups(0.0, 10.0, 20.0), groups(5.0)], [])
    labels = cluster_labels(batch).tolist()
    assert labels[0] == labels[1] != labels[2] == labels[3] != labels[4] == labels[5] != labels[0]
    assert labels[6:] == [0, 0]  # two atoms are one cluster
    drawn = other_clusters(cluster_labels(batch), batch)
    assert all(a != b for a, b in zip(drawn.tolist()[:6], labels[:6], strict=True))
    assert set(drawn.tolist()[:6]) <= set(labels[:6])
    assert drawn.tolist()[6:] == [0, 0]
    assert torch.equal(drawn, other_clusters(cluster_labels(batch), batch))
    empty = collate([], [])
    assert other_clusters(cluster_labels(empty), empty).shape == (0,)


def test_clusters_do_not_know_of_periodicity(encoded: Any, preset: Any) -> None:
    """An atom moved by a lattice vector is the same crystal, but in another cluster."""
    record = groups(0.0, 10.0, 20.0)
    positions = record.positions.copy()
    positions[5] -= record.cell[0]
    moved = record.replace(positions=positions)
    for attention, equal in (("composition", True), ("cluster_fixed", False)):
        encoder = preset("gatgnn", attention=attention)
        assert ("translation" in encoder.invariances) == equal
        one, other = encoded(encoder, record).graph, encoded(encoder, moved).graph
        assert (float((one - other).abs().max()) < 1e-9) == equal


def test_unknown_choices_are_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'cluster_fixed'"):
        GATGNN(8, 1, attention="cluster_fix")
    assert "position_grad" not in GATGNN(8, 1, edge_activation="leaky_relu").provides
