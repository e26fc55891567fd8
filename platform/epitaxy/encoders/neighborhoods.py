"""The edges of a batch with their lengths and directions, as equivariant encoders read them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from epitaxy.graph.batch import CrystalBatch
from epitaxy.graph.spec import GraphSpec
from epitaxy.shapes import Distances, EdgeIndex, EdgeVectors


@dataclass(frozen=True, eq=False)
class Edges:
    """Directed edges from neighbour to centre.

    Attributes:
        source: Neighbour, (edges,).
        target: Centre, (edges,).
        distances: Length in Å, (edges,).
        units: Direction from centre to neighbour, (edges, 3); 0 for an atom's edge to itself.
    """

    source: EdgeIndex
    target: EdgeIndex
    distances: Distances
    units: EdgeVectors


def edges_of(batch: CrystalBatch, spec: GraphSpec, *, self_loops: bool = False) -> Edges:
    """Returns the edges of a graph, differentiable in positions and cell.

    Args:
        batch: Holds a graph for ``spec``.
        spec: Which graph.
        self_loops: Whether each atom gets an edge of length 0 to itself, after all others.
    """
    graph = batch.graph(spec)
    vectors = batch.edge_vectors(spec)
    distances = vectors.norm(dim=-1)
    units = vectors / distances.unsqueeze(-1)
    if not self_loops:
        return Edges(graph.source, graph.target, distances, units)
    count = len(batch.numbers)
    itself = torch.arange(count, device=graph.source.device)
    return Edges(
        torch.cat([graph.source, itself]),
        torch.cat([graph.target, itself]),
        functional.pad(distances, (0, count)),
        functional.pad(units, (0, 0, 0, count)),
    )
