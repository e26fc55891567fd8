from __future__ import annotations

import numpy as np
import pytest
import torch

from epitaxy.errors import RecordError
from epitaxy.graph.collate import collate
from epitaxy.graph.neighbors import build_edges
from epitaxy.graph.record import Label, LabelField
from epitaxy.graph.spec import GraphSpec

RADIUS = GraphSpec(cutoff=5.0)
NEAREST = GraphSpec("nearest", 8.0, 12, padded=True)
ENERGY = LabelField("energy", "eV")
FORCES = LabelField("forces", "eV/Å", (3,), per_atom=True)
STRESS = LabelField("stress", "eV/Å^3", (3, 3))
FIELDS = (ENERGY, FORCES, STRESS)


def test_crystals_are_concatenated_in_order(crystals):
    records = crystals.many(5)
    batch = collate(records, [RADIUS], dtype=torch.float64)
    assert batch.ids == tuple(r.id for r in records)
    assert batch.num_atoms.tolist() == [r.num_atoms for r in records]
    assert batch.numbers.tolist() == [int(z) for r in records for z in r.numbers]
    assert batch.graph_index.tolist() == [g for g, r in enumerate(records) for _ in r.numbers]
    np.testing.assert_array_equal(batch.positions, np.concatenate([r.positions for r in records]))
    np.testing.assert_array_equal(batch.cell, np.stack([r.cell for r in records]))


def test_every_spec_gets_its_graph(crystals):
    records = crystals.many(4)
    batch = collate(records, [RADIUS, NEAREST, RADIUS])
    assert list(batch.graphs) == [RADIUS, NEAREST]
    num_atoms = int(batch.num_atoms.sum())
    assert batch.graph(NEAREST).num_edges == 12 * num_atoms
    assert batch.graph(RADIUS).padded is None
    # Edges stay within their crystal.
    for graph in batch.graphs.values():
        assert (batch.graph_index[graph.source] == batch.graph_index[graph.target]).all()


def test_edges_come_from_the_fp64_coordinates(crystals):
    """The neighbours at exactly 5.5 Å would be lost to fp32, whose steps at 1,000 Å are 6e-5 Å."""
    record = crystals.fcc(lattice=7.7781745930520225)  # nearest neighbours at 5.5 Å
    record = record.replace(positions=record.positions + 1000.1)
    batch = collate([record], [GraphSpec(cutoff=5.5)], dtype=torch.float32)
    assert batch.positions.dtype == torch.float32
    assert batch.graph(GraphSpec(cutoff=5.5)).num_edges == 12


def test_edge_vectors_have_the_lengths_of_the_crystal(crystals):
    batch = collate([crystals.fcc(lattice=4.0)] * 2, [RADIUS], dtype=torch.float64)
    lengths = batch.edge_vectors(RADIUS).norm(dim=-1).numpy()
    shells = np.array([4 / np.sqrt(2)] * 12 + [4.0] * 6 + [4 * np.sqrt(1.5)] * 24)
    np.testing.assert_allclose(np.sort(lengths), np.sort(np.tile(shells, 2)), atol=1e-12)


def test_labels_and_masks(crystals):
    full, bare = crystals.labelled(crystals.fcc()), crystals.rocksalt()
    partial = crystals.triclinic(1, 3).replace(labels={"energy": Label(-7.25, "eV")})
    batch = collate([full, bare, partial], [], FIELDS, torch.float64)
    assert batch.labels["energy"].tolist() == [full.labels["energy"].value, 0.0, -7.25]
    assert batch.masks["energy"].tolist() == [True, False, True]
    assert batch.labels["forces"].shape == (1 + 8 + 3, 3)
    assert batch.masks["forces"].tolist() == [True] + [False] * 11
    np.testing.assert_allclose(batch.labels["forces"][0], full.labels["forces"].value[0])
    assert batch.labels["stress"].shape == (3, 3, 3)
    np.testing.assert_allclose(batch.labels["stress"][0], full.labels["stress"].value)
    assert not batch.labels["stress"][1:].any()
    assert batch.masks["stress"].tolist() == [True, False, False]


def test_labels_take_the_asked_precision(crystals):
    batch = collate([crystals.labelled(crystals.fcc())], [RADIUS], FIELDS)
    assert {t.dtype for t in batch.labels.values()} == {torch.float32}
    assert {t.dtype for t in batch.masks.values()} == {torch.bool}


def test_no_records_give_an_empty_batch():
    batch = collate([], [RADIUS, NEAREST], FIELDS)
    assert batch.num_graphs == 0
    assert batch.positions.shape == (0, 3)
    assert batch.cell.shape == (0, 3, 3)
    assert batch.labels["forces"].shape == (0, 3)
    assert batch.labels["stress"].shape == (0, 3, 3)
    assert batch.masks["energy"].shape == (0,)
    assert batch.edge_vectors(RADIUS).shape == (0, 3)
    assert batch.graph(NEAREST).padded.shape == (0,)


def test_a_label_of_another_unit_is_refused(crystals):
    record = crystals.fcc().replace(id="odd", labels={"energy": Label(-3.7, "meV")})
    with pytest.raises(RecordError, match=r"'odd'.*'energy'.*meV"):
        collate([record], [], [ENERGY])


def test_a_label_of_another_shape_is_refused(crystals):
    record = crystals.fcc().replace(id="odd", labels={"stress": Label(np.zeros(6), "eV/Å^3")})
    with pytest.raises(RecordError, match=r"'odd'.*\(6,\)"):
        collate([record], [], [STRESS])


def test_a_cell_too_small_to_search_is_named(crystals):
    tiny = crystals.fcc().replace(id="nano", cell=np.eye(3) * 0.011)
    with pytest.raises(RecordError, match="'nano'"):
        collate([crystals.rocksalt(), tiny], [RADIUS])


def test_tensors_share_memory_with_the_built_edges(crystals, monkeypatch):
    built = []

    def remember(*args, **kwargs):
        built.append(build_edges(*args, **kwargs))
        return built[-1]

    monkeypatch.setattr("epitaxy.graph.collate.build_edges", remember)
    graph = collate([crystals.fcc()], [RADIUS]).graph(RADIUS)
    assert graph.source.data_ptr() == built[0].source.ctypes.data
    assert graph.shifts.data_ptr() == built[0].shifts.ctypes.data
