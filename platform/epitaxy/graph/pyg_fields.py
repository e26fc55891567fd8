"""What a ``Data`` or ``Batch`` of PyTorch Geometric says, under the names in use, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from epitaxy.errors import NeedsError, RecordError, closest
from epitaxy.graph.batch import CrystalBatch
from epitaxy.graph.foreign_edges import ForeignEdges, lengths
from epitaxy.graph.record import MAX_ATOMIC_NUMBER
from epitaxy.graph.spec import GraphSpec

NUMBERS = ("z", "atomic_numbers")
IMAGES = ("shifts", "cell_offsets", "cell_offset")
IDS = ("identity", "ids", "id")
MATRICES = ("stress", "virial")
"""Labels whose (3, 3) for each crystal PyG stacks to (3 graphs, 3)."""
STRUCTURE = frozenset(
    {*NUMBERS, *IMAGES, *IDS, "pos", "cell", "pbc", "batch", "ptr", "amounts", "x", "num_nodes"}
    | {"edge_index", "edge_weight", "edge_attr", "padded", "reverse", "pairs"}
)
"""Keys that are no labels."""


Fields = Mapping[str, Any]
"""What ``Data.to_dict`` returns."""


def given(data: Fields, *names: str) -> Any:
    """Returns the first of ``names`` that the data has, ``None`` if it has none."""
    for name in names:
        value = data.get(name)
        if value is not None:
            return value.as_tensor() if hasattr(value, "as_tensor") else value
    return None


def read_structure(data: Fields) -> CrystalBatch:
    """Returns a batch of atoms and cells, without ids, labels and graphs.

    Raises:
        NeedsError: If there are no atomic numbers or positions.
        RecordError: If something has the wrong shape or cannot be.
    """
    numbers = _needed(data, NUMBERS, "the atomic number of each atom")
    if numbers.dim() != 1 or numbers.is_floating_point() or numbers.dtype == torch.bool:
        raise RecordError(
            f"z has shape {tuple(numbers.shape)} and type {numbers.dtype}, expected integers, "
            "(atoms,)"
        )
    wrong = numbers[(numbers < 1) | (numbers > MAX_ATOMIC_NUMBER)]
    if len(wrong):
        raise RecordError(
            f"z holds {int(wrong[0])}, which is no element (1 to {MAX_ATOMIC_NUMBER})"
        )
    positions = _needed(data, ("pos",), "the positions of the atoms in Å")
    _check("pos", positions, (len(numbers), 3))
    num_atoms = _num_atoms(data, numbers)
    graphs = len(num_atoms)
    cell = given(data, "cell")
    cell = positions.new_zeros(graphs, 3, 3) if cell is None else cell.to(positions.dtype)
    cell = cell.view(graphs, 3, 3) if cell.shape == (3 * graphs, 3) else cell  # stacked by PyG
    _check("cell", cell, (graphs, 3, 3))
    return CrystalBatch(
        ids=("",) * graphs,
        numbers=numbers.long(),
        positions=positions,
        cell=cell,
        graph_index=torch.repeat_interleave(num_atoms),
        num_atoms=num_atoms,
        labels={},
        masks={},
        graphs={},
    )


def _num_atoms(data: Fields, numbers: Tensor) -> Tensor:
    """Returns the number of atoms of each crystal, from ``ptr``, or ``batch``, or all in one."""
    index, offsets = given(data, "batch"), given(data, "ptr")
    atoms = len(numbers)
    if index is not None:
        _check("batch", index, (atoms,), real=False)
        if bool((index.diff() < 0).any()) or (atoms and int(index[0]) != 0):
            raise RecordError("batch must count crystals from 0, all atoms of one after another")
    if offsets is not None:
        if int(offsets[0]) != 0 or int(offsets[-1]) != atoms:
            raise RecordError(f"ptr must run from 0 to the number of atoms, {atoms}")
        num_atoms = offsets.diff()
    elif index is not None:
        num_atoms = torch.bincount(index)
    else:
        num_atoms = numbers.new_tensor([atoms])
    if bool((num_atoms < 1).any()):
        raise RecordError(f"crystal {int((num_atoms < 1).nonzero()[0])} of the data has no atoms")
    if index is not None and not torch.equal(torch.repeat_interleave(num_atoms), index.long()):
        raise RecordError("batch and ptr disagree about which atoms form a crystal")
    return num_atoms.long()


def read_edges(data: Fields, spec: GraphSpec, structure: CrystalBatch) -> ForeignEdges:
    """Returns the edges in the order in which they are.

    Raises:
        NeedsError: If there are no edges, or no images though the crystals are periodic.
        RecordError: If something has the wrong shape or cannot be.
    """
    index = _needed(
        data,
        ("edge_index",),
        "edges with their images; for structures without, epitaxy.graph.collate builds them",
    )
    if index.dim() != 2 or len(index) != 2 or index.is_floating_point():
        raise RecordError(
            f"edge_index has shape {tuple(index.shape)} and type {index.dtype}, expected integers "
            "(2, edges)"
        )
    source, target = index.long()
    atoms = len(structure.numbers)
    if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < atoms:
        raise RecordError(
            f"edge_index names atoms {int(index.min())} to {int(index.max())} of {atoms}"
        )
    if not torch.equal(structure.graph_index[source], structure.graph_index[target]):
        raise RecordError("edge_index has edges between atoms of different crystals")
    shifts = _images(data, spec, structure, len(source))
    _check_open_axes(data, shifts, structure.graph_index[target], structure.num_graphs)
    padded = given(data, "padded")
    if padded is not None:
        _check("padded", padded, (len(source),), real=False)
    places = (structure.positions, structure.cell, structure.graph_index)
    return ForeignEdges(
        source,
        target,
        shifts,
        None if padded is None else padded.bool(),
        lengths(*places, source, target, shifts),
        atoms,
    )


def _images(data: Fields, spec: GraphSpec, structure: CrystalBatch, edges: int) -> Tensor:
    shifts = given(data, *IMAGES)
    if shifts is None:
        pbc = given(data, "pbc")
        periodic = bool(structure.cell.any()) if pbc is None else bool(pbc.any())
        if periodic and spec.rule != "composition":
            raise NeedsError(
                f"the data has a cell but no images of its edges (one of {', '.join(IMAGES)}): "
                "from which periodic image of edge_index[0] each edge comes, (edges, 3)"
            )
        return torch.zeros(edges, 3, dtype=torch.int32, device=structure.numbers.device)
    _check("shifts", shifts, (edges, 3), real=False)
    whole = shifts.round() if shifts.is_floating_point() else shifts
    if not torch.equal(whole, shifts):
        raise RecordError(
            "shifts are not whole numbers: wanted are images (cells along each lattice vector), "
            "not vectors in Å"
        )
    return whole.to(torch.int32)


def _check_open_axes(data: Fields, shifts: Tensor, home: Tensor, graphs: int) -> None:
    pbc = given(data, "pbc")
    if pbc is None:
        return
    if pbc.numel() != 3 * graphs:
        raise RecordError(f"pbc has shape {tuple(pbc.shape)}, expected ({graphs}, 3)")
    crossing = (shifts != 0) & ~pbc.reshape(graphs, 3).bool()[home]
    if bool(crossing.any()):
        edge, axis = crossing.nonzero()[0].tolist()
        raise RecordError(
            f"edge {edge} has the image {shifts[edge].tolist()}, but pbc says that its crystal is "
            f"not periodic along lattice vector {axis}"
        )


def read_labels(
    data: Fields, wanted: Sequence[str] | None, structure: CrystalBatch, edges: int
) -> dict[str, tuple[Tensor, Tensor]]:
    """Returns name to values, 0 where they are NaN, and whether they are there.

    Raises:
        NeedsError: If the data lacks one of ``wanted``.
        RecordError: If one has no row per crystal or atom, or is not finite.
    """
    found = {}
    for name in data if wanted is None else wanted:
        if given(data, name) is None and wanted is not None:
            raise NeedsError(f"the data holds no {name!r}; {closest(name, data)}")
        values = _numbers(given(data, name), structure)
        if wanted is not None or _is_label(name, values, edges, structure):
            found[name] = _label(name, values, structure)
    return found


def is_of_edges(name: str, values: Any, edges: int, structure: CrystalBatch) -> bool:
    """Whether a tensor has a row per edge; where sizes coincide its name decides."""
    if not isinstance(values, Tensor) or values.dim() == 0 or len(values) != edges:
        return False
    others = (structure.num_graphs, len(structure.numbers))
    return edges not in others or "edge" in name or name in (*IMAGES, "padded")


def _numbers(value: Any, structure: CrystalBatch) -> Tensor | None:
    if isinstance(value, float | np.ndarray | np.floating):
        value = torch.as_tensor(value, device=structure.positions.device)
        value = value.to(structure.positions.dtype) if value.dim() == 0 else value
    if not isinstance(value, Tensor):
        return None
    return value.reshape(1) if value.dim() == 0 and structure.num_graphs == 1 else value


def _is_label(name: str, values: Tensor | None, edges: int, structure: CrystalBatch) -> bool:
    """Whether a tensor nobody named is taken for a label."""
    real = values is not None and values.is_floating_point()
    return real and name not in STRUCTURE and not is_of_edges(name, values, edges, structure)


def _label(name: str, values: Tensor | None, structure: CrystalBatch) -> tuple[Tensor, Tensor]:
    graphs, atoms = structure.num_graphs, len(structure.numbers)
    if values is None:
        raise RecordError(f"{name} is no tensor: a label has a row per crystal or atom")
    if name in MATRICES and values.shape == (3 * graphs, 3):
        values = values.view(graphs, 3, 3)
    if values.dim() == 0 or len(values) not in (graphs, atoms):
        raise RecordError(
            f"{name} has shape {tuple(values.shape)}, expected a row for each of {graphs} crystals "
            f"or {atoms} atoms; if it is no label, name those that are: labels=['energy']"
        )
    flat = values.flatten(1) if values.dim() > 1 else values.unsqueeze(1)
    missing = flat.isnan()
    mask = ~missing.any(dim=1)
    odd = (missing.any(dim=1) & ~missing.all(dim=1)) | flat.isinf().any(dim=1)
    if bool(odd.any()):
        raise RecordError(
            f"{name}: row {int(odd.nonzero()[0])} is infinite or partly NaN (all NaN means missing)"
        )
    return (values if bool(mask.all()) else values.nan_to_num(nan=0.0)), mask


def read_ids(data: Fields, ids: Sequence[str] | None, graphs: int) -> tuple[str, ...]:
    """Returns one id per crystal.

    Raises:
        RecordError: If there are more or fewer.
    """
    named = given(data, *IDS) if ids is None else list(ids)
    if named is None:
        return tuple(str(index) for index in range(graphs))
    if isinstance(named, Tensor):
        named = named.reshape(-1).tolist()
    found = (named,) if isinstance(named, str | int) else tuple(named)
    if len(found) != graphs:
        raise RecordError(f"{len(found)} ids for {graphs} crystals")
    return tuple(str(name) for name in found)


def read_amounts(data: Fields, spec: GraphSpec, structure: CrystalBatch) -> Tensor | None:
    """Returns how much there is of each element of compositions.

    Raises:
        NeedsError: If ``spec`` is about compositions and the data does not say.
        RecordError: If they have the wrong shape.
    """
    amounts: Tensor | None = given(data, "amounts")
    if amounts is None and spec.rule == "composition":
        raise NeedsError("the data holds no amounts: how much there is of each element, (atoms,)")
    if amounts is not None:
        _check("amounts", amounts, (len(structure.numbers),))
    return amounts


def _needed(data: Fields, names: Sequence[str], what: str) -> Tensor:
    value = given(data, *names)
    if value is None:
        keys = ", ".join(map(str, data))
        raise NeedsError(
            f"the data holds no {' or '.join(names)}: {what}. It holds {keys or 'nothing'}"
        )
    if not isinstance(value, Tensor):
        raise RecordError(f"{names[0]} is a {type(value).__name__}, expected a tensor")
    return value


def _check(name: str, value: Any, shape: tuple[int, ...], *, real: bool = True) -> None:
    """Refuses other shapes, and with ``real`` other numbers than finite real ones."""
    if not isinstance(value, Tensor) or tuple(value.shape) != shape:
        found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise RecordError(f"{name} has shape {found}, expected {shape}")
    if real and not value.is_floating_point():
        raise RecordError(f"{name} is {value.dtype}, expected floating-point numbers")
    if real and not bool(torch.isfinite(value).all()):
        raise RecordError(f"{name} holds NaN or infinity")
