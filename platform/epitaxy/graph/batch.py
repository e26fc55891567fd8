"""Crystals as one set of tensors, with a graph for every spec somebody asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from dataclasses import replace as replace_fields
from typing import Any

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from epitaxy.errors import NeedsError
from epitaxy.graph.spec import GraphSpec
from epitaxy.shapes import (
    AtomicNumbers,
    Cells,
    Distances,
    EdgeIndex,
    EdgeVectors,
    GraphIndex,
    ImageShifts,
    Positions,
)


@dataclass(frozen=True, eq=False)
class LineGraph:
    """Pairs of edges a → b and b → c that meet in b; a may be c.

    An edge between images of one atom meets itself only if the spec has ``self_angles``.

    Attributes:
        source: Index of the edge a → b, (pairs,).
        target: Index of the edge b → c, by which pairs are sorted, (pairs,).
    """

    source: Int[Tensor, " pairs"]
    target: Int[Tensor, " pairs"]

    @property
    def num_pairs(self) -> int:
        """Number of pairs."""
        return int(self.source.shape[0])


@dataclass(frozen=True, eq=False)
class Graph:
    """Directed edges from neighbour (``source``) to centre (``target``), in canonical order.

    Edges are sorted by (target, source, shift); a ``nearest`` graph with ties cut is sorted by
    distance within each target instead. The edge vector points from centre to neighbour:
    ``positions[source] + shifts @ cell - positions[target]``.

    Attributes:
        source: Neighbour j, (edges,).
        target: Centre i, (edges,).
        shifts: Integer image of the source, (edges, 3).
        padded: For padded graphs, which edges are fill (distance ``cutoff`` + 1 by rule, whatever
            their vector says), (edges,); otherwise ``None``.
    """

    source: EdgeIndex
    target: EdgeIndex
    shifts: ImageShifts
    padded: Bool[Tensor, " edges"] | None = None
    reverse: Int[Tensor, " edges"] | None = None
    line: LineGraph | None = None

    @property
    def num_edges(self) -> int:
        """Number of directed edges."""
        return int(self.source.shape[0])


@dataclass(frozen=True, eq=False)
class Geometry:
    """Exact coordinates of a batch, for graphs that are built on its device.

    Attributes:
        positions: Cartesian, Å, (atoms, 3).
        cell: Lattice vectors as rows, Å, (graphs, 3, 3).
        pbc: Which lattice vectors are periodic, (graphs, 3).
        num_atoms: Atoms of each crystal, (graphs,).
    """

    positions: Float64[Tensor, "atoms 3"]
    cell: Float64[Tensor, "graphs 3 3"]
    pbc: Bool[Tensor, "graphs 3"]
    num_atoms: Int[Tensor, " graphs"]

    def to(self, device: torch.device | str) -> Geometry:
        """Returns the coordinates on ``device``."""
        moved: Geometry = _move(self, device, None)
        return moved

    def pin_memory(self) -> Geometry:
        """Returns the coordinates in page-locked memory, for asynchronous copies to a GPU."""
        pinned: Geometry = _pin(self)
        return pinned


@dataclass(frozen=True, eq=False)
class CrystalBatch:
    """A batch of crystals.

    Attributes:
        ids: Record ids, one per crystal.
        numbers: Atomic numbers, (atoms,); 0 for atoms whose element a view hides.
        positions: Cartesian, Å, (atoms, 3).
        cell: Lattice vectors as rows, Å, (graphs, 3, 3).
        graph_index: Crystal of each atom, (atoms,).
        num_atoms: Atoms of each crystal, (graphs,).
        labels: Name to values: (graphs, …) or, per atom, (atoms, …); 0 where missing.
        masks: Name to bool: whether a label is present, (graphs,) or (atoms,).
        graphs: Spec to edges.
        amounts: Of compositions: how much there is of each element, (atoms,).
    """

    ids: tuple[str, ...]
    numbers: AtomicNumbers
    positions: Positions
    cell: Cells
    graph_index: GraphIndex
    num_atoms: Int[Tensor, " graphs"]
    labels: Mapping[str, Tensor]
    masks: Mapping[str, Tensor]
    graphs: Mapping[GraphSpec, Graph]
    amounts: Float[Tensor, " atoms"] | None = None

    @property
    def num_graphs(self) -> int:
        """Number of crystals."""
        return len(self.ids)

    @property
    def sizes(self) -> Tensor:
        """Atoms of each crystal, (graphs,); of a composition the sum of its amounts.

        A structure that is read as its composition thus keeps its size.
        """
        if self.amounts is None:
            return self.num_atoms
        total = self.amounts.new_zeros(self.num_graphs)
        return total.index_add(0, self.graph_index, self.amounts)

    def graph(self, spec: GraphSpec) -> Graph:
        """Returns the edges built for ``spec``.

        Raises:
            NeedsError: If they were not built.
        """
        if spec not in self.graphs:
            raise NeedsError(f"the batch holds no graph for {spec}; it has {list(self.graphs)}")
        return self.graphs[spec]

    def line_graph(self, spec: GraphSpec) -> LineGraph:
        """Returns the pairs of edges that meet.

        Raises:
            NeedsError: If the graph was built without ``line_graph``.
        """
        line = self.graph(spec).line
        if line is None:
            raise NeedsError(f"{spec} has no line graph: build it with line_graph=true")
        return line

    def edge_index(self, spec: GraphSpec) -> Int[Tensor, "2 edges"]:
        """Returns neighbour and centre of each edge, as PyG has them."""
        graph = self.graph(spec)
        return torch.stack([graph.source, graph.target])

    def edge_vectors(self, spec: GraphSpec) -> EdgeVectors:
        """Returns centre-to-neighbour vectors in Å, differentiable in positions and cell."""
        graph = self.graph(spec)
        cell = self.cell[self.graph_index[graph.target]]
        offset = torch.einsum("ea,eab->eb", graph.shifts.to(cell.dtype), cell)
        return self.positions[graph.source] + offset - self.positions[graph.target]

    def distances(self, spec: GraphSpec) -> Distances:
        """Returns edge lengths in Å, differentiable; fill edges have ``cutoff`` + 1, no slope."""
        squared = self.edge_vectors(spec).square().sum(-1)
        padded = self.graph(spec).padded
        if padded is not None:
            squared = torch.where(padded, (spec.cutoff + 1.0) ** 2, squared)
        return squared.sqrt()

    def cosines(
        self, spec: GraphSpec, chosen: Bool[Tensor, " all_pairs"] | None = None
    ) -> Float[Tensor, " pairs"]:
        """Returns the cosine of the angle at the atom in which two edges meet.

        For a → b and b → c it is that between b → a and b → c: 1 where c is a (Choudhary & DeCost
        2021, section 1.3). Differentiable in positions and cell; rounding never takes it out of
        [-1, 1].

        Args:
            spec: Which graph.
            chosen: Which pairs of its line graph; ``None`` for all.

        Raises:
            NeedsError: If the graph was built without ``line_graph``.
        """
        line = self.line_graph(spec)
        source, target = line.source, line.target
        if chosen is not None:
            source, target = source[chosen], target[chosen]
        vectors = self.edge_vectors(spec)
        units = vectors / vectors.norm(dim=-1, keepdim=True)
        return -(units[source] * units[target]).sum(-1).clamp(-1.0, 1.0)

    def replace(self, **changes: Any) -> CrystalBatch:
        """Returns a copy with ``changes`` applied."""
        return replace_fields(self, **changes)

    def to(self, device: torch.device | str, *, dtype: torch.dtype | None = None) -> CrystalBatch:
        """Returns the batch on ``device``, its floating-point tensors as ``dtype`` if given."""
        return self.replace(
            **{f.name: _move(getattr(self, f.name), device, dtype) for f in fields(self)}
        )

    def pin_memory(self) -> CrystalBatch:
        """Returns the batch in page-locked memory, for asynchronous copies to a GPU."""
        return self.replace(**{f.name: _pin(getattr(self, f.name)) for f in fields(self)})

    def to_pyg(self, spec: GraphSpec) -> Any:
        """Returns a ``torch_geometric.data.Batch`` with the edges of ``spec``; see ``graph.pyg``.

        Raises:
            NeedsError: If they were not built, or a label cannot go along.
        """
        from epitaxy.graph.pyg import to_pyg

        return to_pyg(self, spec)

    @staticmethod
    def from_pyg(
        data: Any,
        spec: GraphSpec,
        *,
        labels: Sequence[str] | None = None,
        ids: Sequence[str] | None = None,
    ) -> CrystalBatch:
        """Returns the batch that a ``Data`` or ``Batch`` holds; see ``graph.pyg.from_pyg``.

        Raises:
            NeedsError: If something is missing.
            RecordError: If something has the wrong shape or cannot be.
        """
        from epitaxy.graph.pyg import from_pyg

        return from_pyg(data, spec, labels=labels, ids=ids)


def _move(value: Any, device: torch.device | str, dtype: torch.dtype | None) -> Any:
    def convert(tensor: Tensor) -> Tensor:
        wanted = dtype if tensor.is_floating_point() else None
        return tensor.to(device=device, dtype=wanted, non_blocking=True)

    return _apply(value, convert)


def _pin(value: Any) -> Any:
    return _apply(value, torch.Tensor.pin_memory)


def _apply(value: Any, function: Any) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Graph | LineGraph | Geometry):
        return type(value)(*(_apply(getattr(value, f.name), function) for f in fields(value)))
    if isinstance(value, Mapping):
        return {key: _apply(item, function) for key, item in value.items()}
    return value
