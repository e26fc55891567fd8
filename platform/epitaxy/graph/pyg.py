"""Batches to and from PyTorch Geometric.

``to_pyg`` gives what ``Batch.from_data_list`` would: ``z``, ``pos``, ``cell``, ``batch``, ``ptr``,
``edge_index``, ``shifts``, ``edge_weight`` (lengths in Å), ``identity`` and every label under its
name, NaN where it is missing; where the graph has them also ``padded``, ``reverse``, ``pairs`` (its
line graph) and ``amounts``. ``from_pyg`` reads it back bit by bit, and reads what others made.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from epitaxy.errors import NeedsError
from epitaxy.graph.batch import CrystalBatch, Graph
from epitaxy.graph.foreign_edges import canonical_order, complete
from epitaxy.graph.pyg_fields import (
    STRUCTURE,
    given,
    is_of_edges,
    read_amounts,
    read_edges,
    read_ids,
    read_labels,
    read_structure,
)
from epitaxy.graph.spec import GraphSpec

Column = tuple[Any, Tensor, Tensor | None]
"""A tensor, the row at which each crystal begins, and what was added to the rows of each."""


def to_pyg(batch: CrystalBatch, spec: GraphSpec) -> Any:
    """Returns a ``torch_geometric.data.Batch`` with the edges of ``spec``.

    Its parts are plain ``Data``, or ``CrystalData`` if some tensor needs rules of its own when
    batched again.

    Raises:
        NeedsError: If the batch holds no such graph, or a label has the name of something else
            or cannot say where it is missing.
    """
    from torch_geometric.data import Batch, Data

    graph = batch.graph(spec)
    labels = {name: _with_gaps(batch, name) for name in batch.labels}
    columns = _columns(batch, spec, graph, labels)
    odd = graph.reverse is not None or graph.line is not None or any(map(_misread, labels))
    data = Batch(_base_cls=_crystal_data() if odd else Data)
    for key, (value, _, _) in columns.items():
        data[key] = value
    data.batch, data.ptr = batch.graph_index, _offsets(batch.num_atoms)
    data._num_graphs = batch.num_graphs
    data._slice_dict = {key: starts.cpu() for key, (_, starts, _) in columns.items()}
    data._inc_dict = {
        key: torch.zeros(batch.num_graphs, dtype=torch.int64) if added is None else added.cpu()
        for key, (_, _, added) in columns.items()
    }
    data._inc_dict["identity"] = None  # as PyG has it for what is no tensor
    return data


def _columns(
    batch: CrystalBatch, spec: GraphSpec, graph: Graph, labels: dict[str, Tensor]
) -> dict[str, Column]:
    atoms = _offsets(batch.num_atoms)
    crystals = torch.arange(batch.num_graphs + 1, device=atoms.device)
    home = batch.graph_index[graph.target]
    edges = _offsets(torch.bincount(home, minlength=batch.num_graphs))
    columns: dict[str, Column] = {
        "z": (batch.numbers, atoms, None),
        "pos": (batch.positions, atoms, None),
        "cell": (batch.cell, crystals, None),
        "edge_index": (batch.edge_index(spec), edges, atoms[:-1]),
        "shifts": (graph.shifts, edges, None),
        "identity": (list(batch.ids), crystals, None),
    }
    if spec.rule != "composition":
        columns["edge_weight"] = (batch.distances(spec), edges, None)
    if graph.padded is not None:
        columns["padded"] = (graph.padded, edges, None)
    if graph.reverse is not None:
        columns["reverse"] = (graph.reverse, edges, edges[:-1])
    if graph.line is not None:
        pairs = torch.stack([graph.line.source, graph.line.target])
        counts = torch.bincount(home[graph.line.target], minlength=batch.num_graphs)
        columns["pairs"] = (pairs, _offsets(counts), edges[:-1])
    if batch.amounts is not None:
        columns["amounts"] = (batch.amounts, atoms, None)
    per_atom = len(batch.numbers)
    for name, values in labels.items():
        columns[name] = (values, atoms if len(values) == per_atom else crystals, None)
    return columns


def _offsets(sizes: Tensor) -> Tensor:
    return torch.nn.functional.pad(sizes.cumsum(0), (1, 0))


def _with_gaps(batch: CrystalBatch, name: str) -> Tensor:
    """Returns a label with NaN where it is missing."""
    if name in STRUCTURE:
        raise NeedsError(f"a label is called {name!r}, which is a part of the graph in PyG")
    values, mask = batch.labels[name], batch.masks[name]
    if bool(mask.all()):
        return values
    if not values.is_floating_point():
        raise NeedsError(f"label {name!r} is missing somewhere and {values.dtype} knows no NaN")
    return values.masked_fill(~mask.reshape(-1, *[1] * (values.dim() - 1)), torch.nan)


def _misread(name: str) -> bool:
    """Whether PyG takes a tensor of this name for indices of atoms and shifts them in a batch."""
    return "index" in name or "batch" in name or name == "face"


@functools.cache
def _crystal_data() -> type:
    """Returns the class ``CrystalData``: importing this module does not import PyG."""
    from torch_geometric.data import Data

    class CrystalData(Data):
        """A ``Data`` whose ``reverse`` and ``pairs`` are indices of edges, and labels numbers."""

        def __cat_dim__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
            if key == "pairs":
                return -1
            return 0 if _is_real(value) else super().__cat_dim__(key, value, *args, **kwargs)

        def __inc__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
            if key in ("reverse", "pairs"):
                return self.num_edges
            return 0 if _is_real(value) else super().__inc__(key, value, *args, **kwargs)

    CrystalData.__qualname__ = "CrystalData"  # where pickle finds it, by ``__getattr__``
    return CrystalData


def _is_real(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def __getattr__(name: str) -> type:
    if name == "CrystalData":
        return _crystal_data()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def from_pyg(
    data: Any,
    spec: GraphSpec,
    *,
    labels: Sequence[str] | None = None,
    ids: Sequence[str] | None = None,
) -> CrystalBatch:
    """Returns the batch that a ``Data`` or ``Batch`` holds, its edges taken for those of ``spec``.

    Read are ``z`` (or ``atomic_numbers``), ``pos``, ``cell`` (all zero if missing: molecules),
    ``batch`` or ``ptr`` (one crystal without either), ``edge_index``, its integer images
    (``shifts``, ``cell_offsets`` or ``cell_offset``), ``padded`` and ``amounts``. An edge is
    ``pos[edge_index[0]] + image @ cell - pos[edge_index[1]]``, the sign of Open Catalyst; others
    are found out by their lengths. Edges may come in any order: they are sorted, because the same
    crystal must give the same arrays, and line graphs and reverse edges are made anew. With ``pbc``
    edges along open axes are refused. Edge features are not carried (``sort_edges`` sorts them).

    Args:
        data: From PyG.
        spec: Rule by which the edges were listed. Lengths and numbers are checked; that none is
            missing cannot be.
        labels: Names of tensors with a row per crystal or atom; ``None`` takes all floating-point
            ones besides ``x``. NaN means missing.
        ids: One per crystal; ``None`` reads ``identity``, ``ids`` or ``id``, or else counts.

    Raises:
        NeedsError: If something is missing.
        RecordError: If something has the wrong shape or cannot be.
    """
    fields = data.to_dict()
    structure = read_structure(fields)
    edges = read_edges(fields, spec, structure)
    found = read_labels(fields, labels, structure, len(edges.source))
    return structure.replace(
        ids=read_ids(fields, ids, structure.num_graphs),
        labels={name: values for name, (values, _) in found.items()},
        masks={name: mask for name, (_, mask) in found.items()},
        graphs={spec: complete(edges.take(canonical_order(edges, spec)), spec)},
        amounts=read_amounts(fields, spec, structure),
    )


def sort_edges(data: Any, spec: GraphSpec) -> Any:
    """Returns a copy of ``data`` with all edge features in the order of ``from_pyg``'s edges.

    Raises:
        NeedsError: If something is missing, or the data holds indices of edges.
        RecordError: If something has the wrong shape.
    """
    fields = data.to_dict()
    for key in ("reverse", "pairs"):
        if given(fields, key) is not None:
            raise NeedsError(f"{key} holds indices of edges, which no sorting keeps: remove it")
    structure = read_structure(fields)
    order = canonical_order(read_edges(fields, spec, structure), spec)
    result = copy.copy(data)
    result.edge_index = data.edge_index[:, order]
    for key, value in fields.items():
        if key != "edge_index" and is_of_edges(key, value, len(order), structure):
            result[key] = value[order]
    return result
