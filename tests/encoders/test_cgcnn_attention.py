from __future__ import annotations

from typing import Any

import pytest
import torch

from epitaxy.encoders.cgcnn_attention import AttentionCGCNN
from epitaxy.encoders.taps import tapped
from epitaxy.errors import ConfigError
from epitaxy.graph.collate import collate
from epitaxy.graph.elements import atom_features


def test_the_convolution_is_the_formula_of_the_paper(crystals: Any) -> None:
    torch.manual_seed(0)
    options = {"norm": "none", "envelope": "none", "sink": 0.0, "logit_scale": "none"}
    encoder = AttentionCGCNN(5, 1, cutoff=3.5, num_basis=4, basis_width=1.0, **options).double()
    batch = collate([crystals.triclinic(1, 3)], [encoder.spec], (), torch.float64)
    graph = batch.graph(encoder.spec)
    basis = encoder.basis(batch.distances(encoder.spec))
    features = torch.from_numpy(atom_features("cgcnn92")[batch.numbers.numpy()]).double()
    node = features @ encoder.embedding.weight.T + encoder.embedding.bias
    linear, rows = encoder.interaction[0].linear, []
    for i in range(3):
        edges = torch.nonzero(graph.target == i).flatten().tolist()
        others = [node[int(graph.source[k])] for k in edges]
        pairs = zip(edges, others, strict=True)
        logits = torch.stack([(node[i] @ v) * (basis[k] @ basis[k]) for k, v in pairs])
        total = node[i]
        for share, k, v in zip(torch.softmax(logits, 0), edges, others, strict=True):
            core = linear.weight @ torch.cat([node[i], v, basis[k]]) + linear.bias
            total = total + share * torch.log1p(core.exp())
        rows.append(total)
    torch.testing.assert_close(encoder(batch).node, torch.stack(rows))


def test_attention_adds_up_to_one_without_a_sink(crystals: Any, preset: Any) -> None:
    encoder = preset("cgcnn_attention_paper").eval()
    batch = collate([crystals.perovskite(), crystals.triclinic(1, 3)], [encoder.spec])
    with tapped(encoder) as seen:
        encoder(batch)
    assert len(seen) == 4
    target = batch.graph(encoder.spec).target
    for _, share in seen:
        sums = torch.zeros(8).index_add(0, target, share)
        torch.testing.assert_close(sums, torch.ones(8))


def test_wrong_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'sqrt_dim'"):
        AttentionCGCNN(8, 1, logit_scale="sqrt")
    with pytest.raises(ConfigError, match="sink ≥ 0"):
        AttentionCGCNN(8, 1, sink=-1.0)
