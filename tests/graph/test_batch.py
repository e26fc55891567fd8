from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from epitaxy.errors import NeedsError
from epitaxy.graph.collate import collate
from epitaxy.graph.record import LabelField
from epitaxy.graph.spec import GraphSpec

SPEC = GraphSpec(cutoff=5.0)
FIELDS = (LabelField("energy", "eV"), LabelField("forces", "eV/Å", (3,), per_atom=True))


@pytest.fixture
def batch(crystals):
    return collate(crystals.many(3), [SPEC], FIELDS, torch.float64)


def test_a_graph_nobody_built_is_refused(batch):
    with pytest.raises(NeedsError, match=r"no graph for GraphSpec\(.*cutoff=6"):
        batch.graph(GraphSpec(cutoff=6.0))


def test_edge_vectors_follow_positions_and_cell(batch):
    """d(vector)/d(cell) of an edge is its image, checked by a finite strain."""
    strain = torch.eye(3, dtype=torch.float64) * 1.01
    strained = batch.replace(positions=batch.positions @ strain, cell=batch.cell @ strain)
    torch.testing.assert_close(strained.edge_vectors(SPEC), batch.edge_vectors(SPEC) * 1.01)


def test_edge_vectors_are_differentiable(batch):
    positions = batch.positions.clone().requires_grad_()
    cell = batch.cell.clone().requires_grad_()
    vectors = batch.replace(positions=positions, cell=cell).edge_vectors(SPEC)
    weights = torch.randn(vectors.shape, dtype=torch.float64, generator=torch.manual_seed(0))
    (vectors * weights).sum().backward()
    graph = batch.graph(SPEC)
    expected = torch.zeros_like(positions)
    expected.index_add_(0, graph.source, weights)
    expected.index_add_(0, graph.target, -weights)
    torch.testing.assert_close(positions.grad, expected)
    outer = graph.shifts[:, :, None].double() * weights[:, None, :]
    per_cell = torch.zeros_like(cell)
    per_cell.index_add_(0, batch.graph_index[graph.target], outer)
    torch.testing.assert_close(cell.grad, per_cell)


def test_edge_vectors_have_the_precision_of_the_positions(batch):
    single = batch.to("cpu", dtype=torch.float32)
    assert single.edge_vectors(SPEC).dtype == torch.float32
    torch.testing.assert_close(
        single.edge_vectors(SPEC).double(), batch.edge_vectors(SPEC), atol=1e-5, rtol=0
    )


def test_moving_changes_floats_only(batch):
    single = batch.to("cpu", dtype=torch.float32)
    assert single.labels["forces"].dtype == torch.float32
    assert single.numbers.dtype == torch.int64
    assert single.masks["energy"].dtype == torch.bool
    assert single.graph(SPEC).shifts.dtype == torch.int32
    assert batch.to("cpu").positions.dtype == torch.float64
    assert single.ids == batch.ids


def test_a_batch_cannot_be_edited_but_replaced(batch):
    with pytest.raises(dataclasses.FrozenInstanceError):
        batch.positions = batch.positions + 1
    moved = batch.replace(positions=batch.positions + 1)
    assert moved.graphs is batch.graphs
    assert not torch.equal(moved.positions, batch.positions)


# PyG calls torch.jit.script on import.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
def test_pyg_gets_the_same_edges(batch):
    data = batch.to_pyg(SPEC)
    graph = batch.graph(SPEC)
    assert torch.equal(data.edge_index, torch.stack([graph.source, graph.target]))
    assert data.num_nodes == int(batch.num_atoms.sum())
    np.testing.assert_allclose(data.edge_weight, batch.edge_vectors(SPEC).norm(dim=-1))
    assert torch.equal(data.energy, batch.labels["energy"])


@pytest.mark.gpu
def test_pinned_memory_and_a_gpu(batch):
    moved = batch.pin_memory().to("cuda")
    torch.testing.assert_close(moved.edge_vectors(SPEC).cpu(), batch.edge_vectors(SPEC))
