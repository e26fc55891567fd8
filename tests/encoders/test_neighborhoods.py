from __future__ import annotations

from typing import Any

import torch

from epitaxy.encoders.neighborhoods import edges_of
from epitaxy.graph.collate import collate
from epitaxy.graph.spec import GraphSpec


def test_directions_point_from_centre_to_neighbour(crystals: Any) -> None:
    spec = GraphSpec(cutoff=5.0)
    batch = collate([crystals.triclinic(3, 4)], [spec], (), torch.float64)
    edges = edges_of(batch, spec)
    image = batch.graph(spec).shifts.double() @ batch.cell[0]
    ends = batch.positions[edges.target] + edges.distances.unsqueeze(-1) * edges.units
    torch.testing.assert_close(ends, batch.positions[edges.source] + image)
    assert edges.distances.max() <= 5.0


def test_self_loops_come_last_without_length_or_direction(crystals: Any) -> None:
    spec = GraphSpec(cutoff=4.0)
    batch = collate([crystals.rocksalt()], [spec])
    edges = edges_of(batch, spec, self_loops=True)
    assert edges.source[-8:].tolist() == edges.target[-8:].tolist() == list(range(8))
    assert not edges.distances[-8:].any()
    assert not edges.units[-8:].any()
    assert len(edges.source) == batch.graph(spec).num_edges + 8
