"""What twins read of an encoder: its own crystal vector where it has one."""

from __future__ import annotations

from typing import Any

import torch

from epitaxy.encoders.cgcnn import CGCNN
from epitaxy.encoders.pooling import crystal_width
from epitaxy.graph.collate import collate
from epitaxy.heads.model import Model
from epitaxy.objectives.simsiam import SimSiam
from epitaxy.objectives.twins import vector_of


def test_the_encoders_own_vector_comes_before_means_of_atoms(crystals: Any) -> None:
    records = crystals.many(3)
    for width, own in ((0, False), (6, True)):
        encoder = CGCNN(4, 1, cutoff=4.0, crystal_width=width).double()
        batch = collate(records, [encoder.spec], (), torch.float64)
        found = vector_of(Model(encoder, {}), batch)
        assert found.shape == (3, crystal_width(encoder))
        encoding = encoder(batch)
        states = encoding.node.split(batch.num_atoms.tolist())
        means = torch.stack([state.mean(0) for state in states])
        torch.testing.assert_close(found, encoding.graph if own else means)


def test_both_views_have_the_encoders_graph(crystals: Any) -> None:
    spec = CGCNN(4, 1, cutoff=4.0).spec
    assert SimSiam().view_specs(spec) == ((spec,), (spec,))
