"""PyTorch Geometric gets the same crystals, and gives them back bit by bit."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

import numpy as np
import pytest
import torch

from epitaxy.errors import NeedsError, RecordError
from epitaxy.graph.batch import CrystalBatch
from epitaxy.graph.collate import collate
from epitaxy.graph.pyg import sort_edges
from epitaxy.graph.record import AMOUNT, CrystalRecord, Label, LabelField
from epitaxy.graph.spec import GraphSpec

# PyG calls torch.jit.script on import.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")

RADIUS = GraphSpec(cutoff=4.0)
SPECS = [
    RADIUS,
    GraphSpec(cutoff=4.0, line_graph=True, reverse=True),
    GraphSpec(cutoff=4.0, max_neighbors=5),
    GraphSpec("nearest", 6.0, 7),
    GraphSpec("nearest", 6.0, 7, ties="keep", line_graph=True, self_angles=True),
    GraphSpec("nearest", 3.2, 12, padded=True),
    GraphSpec("shell", 4.0, 6, line_graph=True),
    GraphSpec("shell", 4.0, 6, repeats="self", line_graph=True),
    GraphSpec("shell", 4.0, 6, repeats="mutual"),
    GraphSpec("minimum_image", 4.0),
]
FIELDS = (
    LabelField("energy", "eV"),
    LabelField("forces", "eV/Å", (3,), per_atom=True),
    LabelField("stress", "eV/Å^3", (3, 3)),
)


def records(crystals: Any) -> list[CrystalRecord]:
    """One without any label, one without forces, a perfect crystal, and a molecule."""
    made = crystals.many(5)
    made[1] = made[1].replace(labels={})
    made[2] = made[2].replace(labels={"energy": made[2].labels["energy"]})
    molecule = made[3].replace(cell=np.zeros((3, 3)), pbc=np.zeros(3, bool))
    return [*made[:3], crystals.labelled(crystals.rocksalt()), molecule, made[4]]


def content(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.dtype, value.shape, value.contiguous().numpy().tobytes()
    if dataclasses.is_dataclass(value) and not isinstance(value, GraphSpec):
        return {f.name: content(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: content(item) for key, item in value.items()}
    return value


@pytest.fixture
def batch(crystals):
    return collate(records(crystals), [RADIUS], FIELDS, torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_there_and_back_is_bitwise(crystals, spec, dtype):
    batch = collate(records(crystals), [spec], FIELDS, dtype)
    assert not batch.masks["forces"].all()
    assert content(CrystalBatch.from_pyg(batch.to_pyg(spec), spec)) == content(batch)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_pyg_itself_takes_the_batch_apart_and_together(crystals, spec):
    """``Batch.from_data_list`` of the parts has the same tensors, slices and increments."""
    from torch_geometric.data import Batch

    batch = collate(records(crystals), [spec], FIELDS, torch.float64)
    data = batch.to_pyg(spec)
    parts = data.to_data_list()
    assert [part.identity for part in parts] == list(batch.ids)
    again = Batch.from_data_list(parts)
    assert type(again) is type(data)
    assert content(again.to_dict()) == content({k: data[k] for k in again.to_dict()})
    assert set(again.keys()) == set(data.keys())
    for own, theirs in ((data._slice_dict, again._slice_dict), (data._inc_dict, again._inc_dict)):
        assert content({k: own[k] for k in theirs}) == content(theirs)
        assert set(own) == set(theirs)
    assert content(CrystalBatch.from_pyg(again, spec)) == content(batch)
    kind = type(parts[0])  # loaders of other processes look it up by its name
    assert getattr(importlib.import_module(kind.__module__), kind.__qualname__) is kind


@pytest.mark.parametrize("spec", [SPECS[1], SPECS[5], SPECS[7]], ids=str)
def test_the_parts_are_the_single_crystals(crystals, spec):
    made = records(crystals)
    data = collate(made, [spec], FIELDS, torch.float64).to_pyg(spec)
    for index, record in enumerate(made):
        alone = collate([record], [spec], FIELDS, torch.float64)
        assert content(CrystalBatch.from_pyg(data[index], spec)) == content(alone)


def test_distances_are_those_of_the_edges_in_pyg(batch):
    """The formula of Open Catalyst's ``get_pbc_distances``, on the PyG data alone."""
    data = batch.to_pyg(RADIUS)
    row, col = data.edge_index
    cells = data.cell[data.batch[col]]
    offsets = data.shifts.double().view(-1, 1, 3).bmm(cells).view(-1, 3)
    distances = (data.pos[row] - data.pos[col] + offsets).norm(dim=-1)
    np.testing.assert_allclose(distances, batch.distances(RADIUS), atol=1e-13)
    np.testing.assert_allclose(data.edge_weight, distances, atol=1e-13)
    assert 3.5 < distances.max() <= 4.0


def test_pyg_pools_the_batch(batch):
    from torch_geometric.nn import global_add_pool, global_mean_pool

    data = batch.to_pyg(RADIUS)
    assert data.num_graphs == 6
    assert data.num_nodes == len(batch.numbers)
    assert data.ptr.tolist() == np.cumsum([0, *batch.num_atoms.tolist()]).tolist()
    ones = torch.ones(data.num_nodes, 1)
    assert global_add_pool(ones, data.batch).flatten().tolist() == batch.num_atoms.tolist()
    mean = global_mean_pool(data.z.double().view(-1, 1), data.batch).flatten()
    expected = [batch.numbers[batch.graph_index == k].double().mean() for k in range(6)]
    np.testing.assert_allclose(mean, expected)


def test_what_is_missing_is_nan_in_pyg_and_0_here(batch):
    data = batch.to_pyg(RADIUS)
    assert data.energy.isnan().tolist() == [False, True, False, False, False, False]
    missing = torch.isin(batch.graph_index, torch.tensor([1, 2]))
    assert torch.equal(data.forces.isnan().all(1), missing)
    assert data[1].stress.isnan().all()
    back = CrystalBatch.from_pyg(data, RADIUS)
    assert (back.labels["energy"][1], back.masks["energy"][1]) == (0, False)


def test_gradients_reach_the_positions(batch):
    positions = batch.positions.clone().requires_grad_()
    data = batch.replace(positions=positions).to_pyg(RADIUS)
    data.edge_weight.sum().backward()
    assert positions.grad.abs().max() > 0
    assert CrystalBatch.from_pyg(data, RADIUS).positions.requires_grad


def test_compositions_go_along():
    spec = GraphSpec("composition", reverse=True)
    zeros = {"cell": np.zeros((3, 3)), "pbc": np.zeros(3, bool)}
    made = [
        CrystalRecord(
            name,
            numbers,
            np.zeros((len(numbers), 3)),
            labels={AMOUNT: Label(np.array(amounts, float), "", per_atom=True)},
            **zeros,
        )
        for name, numbers, amounts in (
            ("NaCl", [11, 17], [1, 1]),
            ("SrTiO3", [38, 22, 8], [1, 1, 3]),
        )
    ]
    batch = collate(made, [spec])
    data = batch.to_pyg(spec)
    assert data[1].amounts.tolist() == [1, 1, 3]
    assert content(CrystalBatch.from_pyg(data, spec)) == content(batch)
    del data.amounts
    with pytest.raises(NeedsError, match="no amounts"):
        CrystalBatch.from_pyg(data, spec)


def test_an_empty_batch_goes_along():
    empty = collate([], [SPECS[1]], FIELDS)
    data = empty.to_pyg(SPECS[1])
    assert (data.num_graphs, data.num_nodes, data.num_edges) == (0, 0, 0)
    assert data.to_data_list() == []
    assert content(CrystalBatch.from_pyg(data, SPECS[1])) == content(empty)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_edges_may_come_in_any_order(crystals, spec):
    """Whatever the order, the same arrays; features of edges go along with ``sort_edges``."""
    made = [crystals.triclinic(1, 3), crystals.triclinic(2, 5)]
    expected = collate(made, [spec], dtype=torch.float64)
    data = expected.to_pyg(spec)
    data.edge_attr = torch.arange(count := data.num_edges)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    for key in ("edge_attr", "shifts", "edge_weight", "padded"):
        if key in data:
            data[key] = data[key][order]
    data.edge_index = data.edge_index[:, order]
    back = CrystalBatch.from_pyg(data, spec)
    assert content(back.graphs) == content(expected.graphs)
    if "pairs" in data or "reverse" in data:
        with pytest.raises(NeedsError, match="indices of edges"):
            sort_edges(data, spec)
        del data.pairs, data.reverse
    before = data.edge_index.clone()
    kept = sort_edges(data, spec)
    assert torch.equal(data.edge_index, before)
    assert torch.equal(kept.edge_index, back.edge_index(spec))
    if spec.repeats == "never" and not spec.padded:
        assert kept.edge_attr.tolist() == list(range(count))
    np.testing.assert_allclose(kept.edge_weight, expected.distances(spec))


def ase_data(record: CrystalRecord, **more: Any) -> Any:
    """What a PyG user makes with ASE's neighbour list: another program, order and names."""
    from ase import Atoms
    from ase.neighborlist import neighbor_list
    from torch_geometric.data import Data

    atoms = Atoms(record.numbers, record.positions, cell=record.cell, pbc=record.pbc)
    centre, neighbor, image = neighbor_list("ijS", atoms, RADIUS.cutoff)
    return Data(
        atomic_numbers=torch.from_numpy(atoms.numbers),
        pos=torch.from_numpy(atoms.positions),
        cell=torch.from_numpy(atoms.cell.array),
        pbc=torch.from_numpy(atoms.pbc),
        edge_index=torch.from_numpy(np.stack([neighbor, centre])),
        cell_offsets=torch.from_numpy(image).float(),
        edge_attr=torch.rand(len(image), 4),
        **more,
    )


def test_what_others_built_gives_our_arrays(crystals):
    """ASE's edges, in PyG's own batch, whose cells and stresses are stacked to (3 graphs, 3)."""
    from torch_geometric.data import Batch

    made = [crystals.labelled(crystals.triclinic(k, 2 + k), k) for k in range(4)]
    theirs = Batch.from_data_list(
        [
            ase_data(
                record,
                energy=float(record.labels["energy"].value),
                forces=torch.from_numpy(record.labels["forces"].value.copy()),
                stress=torch.from_numpy(record.labels["stress"].value.copy()),
                x=torch.rand(record.num_atoms, 5),
                tags=torch.ones(record.num_atoms, dtype=torch.int64),
            )
            for record in made
        ]
    )
    assert theirs.cell.shape == theirs.stress.shape == (12, 3)
    theirs.energy = theirs.energy.double()
    ours = collate(made, [RADIUS], FIELDS, torch.float64)
    back = CrystalBatch.from_pyg(theirs, RADIUS, ids=ours.ids)
    assert content(back.replace(labels={}, masks={})) == content(ours.replace(labels={}, masks={}))
    assert set(back.labels) == {"energy", "forces", "stress"}
    for name, values in ours.labels.items():
        np.testing.assert_allclose(back.labels[name], values, rtol=1e-6)
        assert torch.equal(back.masks[name], ours.masks[name])
    named = CrystalBatch.from_pyg(theirs, RADIUS, labels=["tags", "x"])
    assert set(named.labels) == {"tags", "x"}
    assert named.ids == ("0", "1", "2", "3")


def test_one_crystal_needs_neither_batch_nor_ids(crystals):
    record = crystals.triclinic(1, 3)
    data = ase_data(record, y=torch.tensor(1.5))
    back = CrystalBatch.from_pyg(data, RADIUS)
    expected = collate([record], [RADIUS], dtype=torch.float64)
    assert content(back.graphs) == content(expected.graphs)
    assert back.labels["y"].tolist() == [1.5]
    assert (back.ids, back.num_atoms.tolist()) == (("0",), [3])


def test_labels_may_have_names_that_pyg_reads_as_indices(batch):
    """PyG adds the number of atoms to whatever has ``index`` in its name: not to ours."""
    from torch_geometric.data import Batch

    index = torch.linspace(1.0, 2.0, batch.num_graphs, dtype=torch.float64)
    masks = {"refractive_index": index > 0}
    odd = batch.replace(labels={"refractive_index": index}, masks=masks)
    again = Batch.from_data_list(odd.to_pyg(RADIUS).to_data_list())
    assert torch.equal(again.refractive_index, index)
    assert content(CrystalBatch.from_pyg(again, RADIUS)) == content(odd)


def test_labels_that_cannot_go_along_are_refused(batch):
    energy, mask = batch.labels["energy"], batch.masks["energy"]
    with pytest.raises(NeedsError, match="'cell', which is a part of the graph"):
        batch.replace(labels={"cell": energy}, masks={"cell": mask}).to_pyg(RADIUS)
    with pytest.raises(NeedsError, match=r"'n' is missing somewhere and torch\.int64 knows no NaN"):
        batch.replace(labels={"n": energy.long()}, masks={"n": mask}).to_pyg(RADIUS)
    with pytest.raises(NeedsError, match="no graph for GraphSpec"):
        batch.to_pyg(GraphSpec(cutoff=3.0))
    with pytest.raises(NeedsError, match="'energi'; did you mean 'energy'"):
        CrystalBatch.from_pyg(batch.to_pyg(RADIUS), RADIUS, labels=["energi"])


def with_(**changes: Any) -> Any:
    def change(data: Any) -> None:
        for key, make in changes.items():
            data[key] = make(data[key]) if callable(make) else make

    return change


def more_edges(edge_index: Any, shifts: Any) -> Any:
    def change(data: Any) -> None:
        data.edge_index = torch.cat([data.edge_index, edge_index(data)], dim=1)
        data.shifts = torch.cat([data.shifts, shifts(data)])

    return change


SELF_LOOP = more_edges(lambda d: d.edge_index[:, :1] * 0, lambda d: d.shifts[:1] * 0)
TWICE = more_edges(lambda d: d.edge_index, lambda d: d.shifts)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (with_(z=None), NeedsError, r"no z or atomic_numbers: .* It holds pos, cell"),
        (with_(pos=None), NeedsError, "no pos: the positions"),
        (with_(edge_index=None), NeedsError, r"no edge_index: .*collate"),
        (with_(shifts=None), NeedsError, r"one of shifts, cell_offsets, cell_offset\): from which"),
        (with_(z=lambda z: z.double()), RecordError, r"torch\.float64, expected integers"),
        (with_(z=lambda z: z * 0), RecordError, "z holds 0, which is no element"),
        (
            with_(pos=lambda p: p[:, :2]),
            RecordError,
            r"pos has shape \(\d+, 2\), expected \(\d+, 3",
        ),
        (with_(pos=lambda p: p / 0), RecordError, "pos holds NaN or infinity"),
        (with_(cell=lambda c: c[:2]), RecordError, r"cell has shape \(2, 3, 3\), expected \(6, 3"),
        (with_(batch=lambda b: b.flip(0)), RecordError, "batch must count crystals from 0"),
        (with_(ptr=lambda p: p + 1), RecordError, "ptr must run from 0 to the number of atoms"),
        (with_(ptr=lambda p: p[[0, 0, *range(2, 7)]]), RecordError, "crystal 0 of the data has no"),
        (with_(ptr=lambda p: p - (p == p[3]).long()), RecordError, "batch and ptr disagree"),
        (with_(edge_index=lambda e: e.T), RecordError, r"edge_index has shape .*\(2, edges\)"),
        (with_(edge_index=lambda e: e + 3), RecordError, r"edge_index names atoms 3 to \d+ of \d+"),
        (with_(edge_index=lambda e: e[:, 1:]), RecordError, r"shifts has shape"),
        (
            with_(edge_index=lambda e: e * torch.tensor([[1], [0]])),
            RecordError,
            "of different crystals",
        ),
        (with_(shifts=lambda s: s + 0.5), RecordError, "shifts are not whole numbers"),
        (with_(shifts=lambda s: -s), RecordError, r"Å long, .* from 0.01 to 4 Å; .*negate the im"),
        (SELF_LOOP, RecordError, "self loops of length 0 must go"),
        (TWICE, RecordError, r"is listed 2 times; GraphSpec\(rule='radius'"),
        (with_(pbc=torch.zeros(6, 3)), RecordError, r"not periodic along lattice vector"),
        (with_(pbc=torch.zeros(5, 3)), RecordError, r"pbc has shape \(5, 3\)"),
        (
            with_(energy=lambda e: e[:4]),
            RecordError,
            r"energy has shape \(4,\), expected a row for",
        ),
        (with_(energy=lambda e: e / 0), RecordError, "energy: row 0 is infinite or partly NaN"),
        (
            with_(stress=lambda s: s.masked_fill(torch.eye(3, dtype=torch.bool), torch.nan)),
            RecordError,
            "stress: row 0 is infinite or partly NaN",
        ),
        (with_(identity=["a"]), RecordError, "1 ids for 6 crystals"),
        (with_(padded=torch.ones(3)), RecordError, r"padded has shape \(3,\)"),
    ],
)
def test_what_does_not_fit_is_named(batch, change, error, message):
    data = batch.to_pyg(RADIUS)
    change(data)
    with pytest.raises(error, match=message):
        CrystalBatch.from_pyg(data, RADIUS)


def test_edges_of_another_rule_are_refused(crystals):
    made, padded = [crystals.triclinic(1, 3), crystals.triclinic(2, 5)], SPECS[5]
    batch = collate(made, [RADIUS, padded], dtype=torch.float64)
    data, filled = batch.to_pyg(RADIUS), batch.to_pyg(padded)

    def refused(data: Any, spec: GraphSpec, error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            CrystalBatch.from_pyg(data, spec)

    refused(data, GraphSpec(cutoff=3.0), RecordError, "from 0.01 to 3 Å")
    refused(data, GraphSpec("nearest", 4.0, 2), RecordError, r"neighbours; .* keeps 2")
    refused(data, padded, NeedsError, r"must say which edges are fill \(padded\)")
    refused(filled, RADIUS, RecordError, r"some edges are fill \(padded\)")
    refused(filled, dataclasses.replace(padded, max_neighbors=9), RecordError, "exactly 9 per atom")
    one_way = data.edge_index[0] < data.edge_index[1]
    data.edge_index, data.shifts = data.edge_index[:, one_way], data.shifts[one_way]
    with_reverse = GraphSpec(cutoff=4.0, reverse=True)
    refused(data, with_reverse, RecordError, "has none that runs back")


@pytest.mark.gpu
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_there_and_back_on_a_gpu(crystals, spec):
    batch = collate(records(crystals), [spec], FIELDS, torch.float64)
    data = batch.to("cuda").to_pyg(spec)
    assert all(value.is_cuda for value in data.to_dict().values() if torch.is_tensor(value))
    assert len(data.to_data_list()) == batch.num_graphs
    back = CrystalBatch.from_pyg(data, spec)
    assert back.graph(spec).source.is_cuda
    assert content(back.to("cpu")) == content(batch)
