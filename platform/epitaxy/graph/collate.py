"""Records to a batch: buffers are concatenated, graphs built straight into the batch's arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from epitaxy.errors import RecordError
from epitaxy.graph.batch import CrystalBatch, Geometry, Graph, LineGraph
from epitaxy.graph.composition import as_composition
from epitaxy.graph.hiding import hide_edges, hide_elements
from epitaxy.graph.neighbors import Edges, build_edges
from epitaxy.graph.record import AMOUNT, CrystalRecord, LabelField
from epitaxy.graph.spec import GraphSpec


def collate(
    records: Sequence[CrystalRecord],
    specs: Sequence[GraphSpec],
    fields: Sequence[LabelField] = (),
    dtype: torch.dtype = torch.float32,
) -> CrystalBatch:
    """Returns one batch of ``records`` with a graph for each of ``specs``.

    Graphs are built from the records' fp64 coordinates, whatever ``dtype`` is. If all ``specs`` are
    of rule ``composition``, structures become compositions. No records give an empty batch that
    every module accepts.

    Args:
        records: Crystals, in the order they get in the batch.
        specs: Graphs to build.
        fields: Labels to bring along. One that a record lacks is 0 there, with mask ``False``.
        dtype: Of positions, cell and labels.

    Raises:
        RecordError: If a label has another shape or unit than its field says, or a cell is too
            small to search.
    """
    composed = any(spec.rule == "composition" for spec in specs)
    if composed:
        records = _compositions(records, specs)
    ids = tuple(record.id for record in records)
    sizes = np.array([record.num_atoms for record in records], dtype=np.int64)
    atom_offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
    positions = _joined([record.positions for record in records], (0, 3), np.float64)
    cells = _joined([record.cell[None] for record in records], (0, 3, 3), np.float64)
    pbc = _joined([record.pbc[None] for record in records], (0, 3), np.bool_)
    numbers = _joined([hide_elements(record) for record in records], (0,), np.uint8)
    graphs = {}
    for spec in dict.fromkeys(specs):
        _check_geometry(records, spec)
        edges = build_edges(spec, positions, cells, pbc, atom_offsets, names=ids)
        graphs[spec] = hide_edges(_graph(edges), spec, records)
    columns = {field.name: _column(records, field, atom_offsets, dtype) for field in fields}
    return CrystalBatch(
        ids=ids,
        numbers=torch.from_numpy(numbers.astype(np.int64)),
        positions=torch.from_numpy(positions).to(dtype),
        cell=torch.from_numpy(cells).to(dtype),
        graph_index=torch.from_numpy(np.repeat(np.arange(len(records)), sizes)),
        num_atoms=torch.from_numpy(sizes),
        labels={name: values for name, (values, _) in columns.items()},
        masks={name: mask for name, (_, mask) in columns.items()},
        graphs=graphs,
        amounts=_amounts(records, composed, dtype),
    )


def geometry(records: Sequence[CrystalRecord]) -> Geometry:
    """Returns what ``device_edges.build_edges_on_device`` needs of ``records``."""
    return Geometry(
        torch.from_numpy(_joined([record.positions for record in records], (0, 3), np.float64)),
        torch.from_numpy(_joined([record.cell[None] for record in records], (0, 3, 3), np.float64)),
        torch.from_numpy(_joined([record.pbc[None] for record in records], (0, 3), np.bool_)),
        torch.tensor([record.num_atoms for record in records], dtype=torch.int64),
    )


def _compositions(
    records: Sequence[CrystalRecord], specs: Sequence[GraphSpec]
) -> Sequence[CrystalRecord]:
    """Returns records as compositions; refuses to build distances in the same batch."""
    others = [spec.rule for spec in specs if spec.rule != "composition"]
    if others:
        raise RecordError(
            f"one batch cannot hold the elements of a composition and the atoms that graph rule "
            f"{others[0]!r} connects: give each its own view"
        )
    return [as_composition(record) for record in records]


def _check_geometry(records: Sequence[CrystalRecord], spec: GraphSpec) -> None:
    """Refuses distances between the elements of a composition."""
    if spec.rule == "composition":
        return
    for record in records:
        if record.is_composition:
            raise RecordError(
                f"record {record.id!r} is a composition, but graph rule {spec.rule!r} needs "
                "positions: choose an encoder for compositions (encoder=roost), or prepare "
                "structures"
            )


def _amounts(records: Sequence[CrystalRecord], composed: bool, dtype: torch.dtype) -> Tensor | None:
    """Returns how much of each element compositions hold; ``None`` for structures."""
    if not composed and not (records and all(record.is_composition for record in records)):
        return None
    values = [record.labels[AMOUNT].value.reshape(-1) for record in records]
    return torch.from_numpy(_joined(values, (0,), np.float64)).to(dtype)


def _graph(edges: Edges) -> Graph:
    def tensor(array: np.ndarray | None) -> Tensor | None:
        return None if array is None else torch.from_numpy(array)

    return Graph(
        torch.from_numpy(edges.source),
        torch.from_numpy(edges.target),
        torch.from_numpy(edges.shifts),
        tensor(edges.padded),
        tensor(edges.reverse),
        LineGraph(*map(torch.from_numpy, edges.meetings)) if edges.meetings else None,
    )


def _joined(
    arrays: Sequence[np.ndarray], empty: tuple[int, ...], dtype: type[np.generic]
) -> np.ndarray:
    return np.concatenate(arrays, dtype=dtype) if arrays else np.zeros(empty, dtype)


def _column(
    records: Sequence[CrystalRecord],
    field: LabelField,
    atom_offsets: np.ndarray,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Returns the values and the mask of one label over the batch."""
    rows = int(atom_offsets[-1]) if field.per_atom else len(records)
    values = np.zeros((rows, *field.shape), np.float64)
    mask = np.zeros(rows, bool)
    for index, record in enumerate(records):
        label = record.labels.get(field.name)
        if label is None:
            continue
        if label.field(field.name) != field:
            raise RecordError(
                f"record {record.id!r}: label {field.name!r} is {label.field(field.name)}, "
                f"the data set says {field}"
            )
        place = slice(*atom_offsets[index : index + 2]) if field.per_atom else index
        values[place] = label.value
        mask[place] = True
    return torch.from_numpy(values).to(dtype), torch.from_numpy(mask)
