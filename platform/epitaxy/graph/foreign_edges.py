"""Edges that another program listed: checked, put in order, completed to a ``Graph``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from epitaxy.errors import NeedsError, RecordError
from epitaxy.graph.batch import Graph, LineGraph
from epitaxy.graph.nearest import TIE_STEP
from epitaxy.graph.pairs import count_meetings, reverse_index, write_meetings
from epitaxy.graph.periodic import SHORTEST
from epitaxy.graph.spec import GraphSpec

TOLERANCE = 1e-3
"""Å. Rounding of single-precision coordinates, generously."""


@dataclass(frozen=True, eq=False)
class ForeignEdges:
    """Edges in any order, of structures that were checked before.

    Attributes:
        source: Neighbour, (edges,).
        target: Centre, (edges,).
        shifts: Integer image of the neighbour, (edges, 3).
        padded: Which edges are fill, (edges,); ``None`` if nobody said.
        lengths: Å, (edges,).
        num_atoms: Atoms of the batch.
    """

    source: Int[Tensor, " edges"]
    target: Int[Tensor, " edges"]
    shifts: Int[Tensor, "edges 3"]
    padded: Bool[Tensor, " edges"] | None
    lengths: Float64[Tensor, " edges"]
    num_atoms: int

    def take(self, order: Int[Tensor, " edges"]) -> ForeignEdges:
        """Returns the edges in another order."""
        padded = None if self.padded is None else self.padded[order]
        columns = (self.source[order], self.target[order], self.shifts[order])
        return ForeignEdges(*columns, padded, self.lengths[order], self.num_atoms)


def lengths(
    positions: Float[Tensor, "atoms 3"],
    cell: Float[Tensor, "graphs 3 3"],
    graph_index: Int[Tensor, " atoms"],
    source: Int[Tensor, " edges"],
    target: Int[Tensor, " edges"],
    shifts: Int[Tensor, "edges 3"],
) -> Float64[Tensor, " edges"]:
    """Returns the lengths of edges in Å."""
    positions, cell = positions.detach().double(), cell.detach().double()
    offset = torch.einsum("ea,eab->eb", shifts.double(), cell[graph_index[target]])
    return (positions[source] + offset - positions[target]).norm(dim=-1)


def canonical_order(edges: ForeignEdges, spec: GraphSpec) -> Int[Tensor, " edges"]:
    """Returns the order in which ``spec`` lists these edges: first the index that comes first.

    That is (target, source, shift); for ``nearest`` with ties cut (target, distance), where edges
    that are in such an order already, equal distances anyhow, keep theirs.
    """
    by_distance = spec.rule == "nearest" and not spec.completes_shells
    ranks = edges.lengths
    if edges.padded is not None:
        ranks = torch.where(edges.padded, spec.cutoff + 1.0, ranks)
    order = torch.arange(len(edges.source), device=edges.source.device)
    if by_distance and _rises(edges.target, ranks):
        return order
    keys = [*edges.shifts.T.flip(0), edges.source]
    if by_distance:
        keys.append((ranks / TIE_STEP).round())
    for key in [*keys, edges.target]:  # the most important key last: each sort is stable
        order = order[torch.argsort(key[order], stable=True)]
    return order


def _rises(target: Tensor, ranks: Tensor) -> bool:
    step, longer = target.diff(), ranks.diff() > -TOLERANCE
    return bool(((step > 0) | ((step == 0) & longer)).all())


def complete(edges: ForeignEdges, spec: GraphSpec) -> Graph:
    """Returns the graph of edges in canonical order, its line graph and reverse edges made anew.

    Raises:
        NeedsError: If the graph is padded and nobody said which edges are fill.
        RecordError: If the edges cannot be those of ``spec``.
    """
    padded = _fill(edges, spec)
    real = edges if padded is None else edges.take(torch.nonzero(~padded).flatten())
    _check_lengths(real, spec)
    _check_number(real, spec)
    source, target = edges.source.contiguous(), edges.target.contiguous()
    shifts = edges.shifts.to(torch.int32).contiguous()
    arrays = (source.cpu().numpy(), target.cpu().numpy(), shifts.cpu().numpy())
    counts = torch.bincount(target, minlength=edges.num_atoms).cpu().numpy()
    row_offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Graph(
        source,
        target,
        shifts,
        padded,
        _reverse(*arrays, row_offsets).to(source.device) if spec.reverse else None,
        _line(*arrays[:2], row_offsets, spec, source.device) if spec.line_graph else None,
    )


def _fill(edges: ForeignEdges, spec: GraphSpec) -> Tensor | None:
    """Returns which edges are fill, ``None`` for graphs without."""
    if not spec.padded:
        if edges.padded is not None and bool(edges.padded.any()):
            raise RecordError(f"some edges are fill (padded), but {spec} has none")
        return None
    if edges.padded is None:
        raise NeedsError(f"{spec} is padded: the data must say which edges are fill (padded)")
    counts = torch.bincount(edges.target, minlength=edges.num_atoms)
    wrong = torch.nonzero(counts - (spec.max_neighbors or 0)).flatten()
    if len(wrong):
        raise RecordError(
            f"atom {int(wrong[0])} has {int(counts[wrong[0]])} edges with fill; {spec} has exactly "
            f"{spec.max_neighbors} per atom"
        )
    return edges.padded


def _check_lengths(edges: ForeignEdges, spec: GraphSpec) -> None:
    if spec.rule == "composition":
        return
    wrong = edges.lengths < SHORTEST / 2
    if spec.rule != "shell":  # which looks farther where it finds too few
        wrong = wrong | (edges.lengths > spec.cutoff + TOLERANCE)
    if not bool(wrong.any()):
        return
    edge = int(torch.nonzero(wrong)[0])
    length = float(edges.lengths[edge])
    remedy = (
        "an atom is no neighbour of itself, so self loops of length 0 must go"
        if length < SHORTEST
        else "an edge is pos[edge_index[0]] + image @ cell - pos[edge_index[1]]: if the other "
        "program has the opposite sign, negate the images, or swap the rows of edge_index"
    )
    raise RecordError(
        f"the edge from atom {int(edges.source[edge])} (image {edges.shifts[edge].tolist()}) to "
        f"atom {int(edges.target[edge])} is {length:.4g} Å long, but rule {spec.rule!r} lists "
        f"neighbours from {SHORTEST} to {spec.cutoff:g} Å; {remedy}"
    )


def _check_number(edges: ForeignEdges, spec: GraphSpec) -> None:
    rows = torch.column_stack([edges.target, edges.source, edges.shifts])
    if spec.repeats == "never" and len(torch.unique(rows, dim=0)) < len(rows):
        values, counts = torch.unique(rows, dim=0, return_counts=True)
        centre, neighbor, *image = values[counts.argmax()].tolist()
        raise RecordError(
            f"the edge from atom {neighbor} (image {image}) to atom {centre} is listed "
            f"{int(counts.max())} times; {spec} lists each once (torch_geometric.utils.coalesce "
            "does not look at images)"
        )
    most = None if spec.completes_shells else spec.max_neighbors
    sizes = torch.bincount(edges.target, minlength=edges.num_atoms)
    if most is not None and len(sizes) and int(sizes.max()) > most:
        raise RecordError(
            f"atom {int(sizes.argmax())} has {int(sizes.max())} neighbours; {spec} keeps {most}"
        )


def _reverse(
    source: np.ndarray, target: np.ndarray, shifts: np.ndarray, row_offsets: np.ndarray
) -> Tensor:
    reverse = np.empty(len(source), np.int64)
    if reverse_index(source, shifts, row_offsets, reverse):
        return torch.from_numpy(reverse)
    listed = {(i, j, *n) for i, j, n in zip(target, source, shifts.tolist(), strict=True)}
    for i, j, image in zip(target, source, shifts.tolist(), strict=True):
        if (j, i, *(-n for n in image)) not in listed:
            raise RecordError(
                f"the edge from atom {j} (image {image}) to atom {i} has none that runs back; "
                "reverse=true needs every bond in both directions"
            )
    raise AssertionError("canonical edges that all run back have a reverse index")


def _line(
    source: np.ndarray,
    target: np.ndarray,
    row_offsets: np.ndarray,
    spec: GraphSpec,
    device: torch.device,
) -> LineGraph:
    ends = (source, target, row_offsets, spec.self_angles)
    first, second = np.empty((2, count_meetings(*ends)), np.int64)
    write_meetings(*ends, first, second)
    return LineGraph(torch.from_numpy(first).to(device), torch.from_numpy(second).to(device))
