"""Bins of atoms find the same edges in the same order as trying all pairs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from epitaxy.errors import RecordError
from epitaxy.graph import binned
from epitaxy.graph.neighbors import build_edges, count_neighbors
from epitaxy.graph.record import CrystalRecord
from epitaxy.graph.spec import GraphSpec

KEEP_PATCH = HealthCheck.function_scoped_fixture


@pytest.fixture
def always_bins(monkeypatch):
    monkeypatch.setattr(binned, "LARGE", 1)


def plain_rows(edges) -> np.ndarray:
    """Rows (centre, neighbour, image), in the order they come."""
    return np.column_stack([edges.target, edges.source, edges.shifts])


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[KEEP_PATCH])
@given(
    seed=st.integers(0, 2**32 - 1),
    num_atoms=st.integers(1, 12),
    scale=st.floats(1.5, 12.0),
    shear=st.floats(0.0, 2.0),
    spread=st.sampled_from([0.0, 1.0, 5.0]),
    pbc=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    cutoff=st.floats(0.5, 6.0),
)
def test_random_cells_agree_with_brute_force(
    always_bins, edges, brute_force_route, seed, num_atoms, scale, shear, spread, pbc, cutoff
):
    """The route sorts its rows, so this compares the order as well."""
    rng = np.random.default_rng(seed)
    cell = scale * (np.eye(3) + np.triu(rng.uniform(-shear, shear, (3, 3)), 1))
    cell = cell[rng.permutation(3)] @ np.linalg.qr(rng.normal(size=(3, 3)))[0]
    fractions = rng.uniform(-spread, 1 + spread, (num_atoms, 3))
    record = CrystalRecord("any", np.ones(num_atoms), fractions @ cell, cell, np.array(pbc))
    found = plain_rows(edges(record, GraphSpec(cutoff=cutoff)))
    assert np.array_equal(found, brute_force_route(record, cutoff))


def test_a_large_crystal_has_the_neighbours_of_its_small_cell(edges):
    """Rock salt 7 × 7 × 7 (2,744 atoms): 6 at a/2, 12 at a/√2, 8 at a√3/2 and 6 at a."""
    fractions = np.array([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]]) / 2
    fractions = np.concatenate([fractions, fractions + 0.5])
    images = np.stack(np.meshgrid(*[np.arange(7)] * 3, indexing="ij"), -1).reshape(-1, 3)
    positions = 5.6 * (images[:, None] + fractions).reshape(-1, 3)
    order = np.random.default_rng(0).permutation(len(positions))
    record = CrystalRecord("salt", np.ones(len(positions)), positions[order], np.eye(3) * 5.6 * 7)
    assert record.num_atoms >= binned.LARGE
    for cutoff, expected in [(2.8, 6), (4.0, 18), (4.9, 26), (5.6, 32)]:
        found = edges(record, GraphSpec(cutoff=cutoff))
        assert (np.bincount(found.target, minlength=record.num_atoms) == expected).all()
    twelve = edges(record, GraphSpec("nearest", 8.0, 12, ties="keep"))
    assert (np.bincount(twelve.target) == 18).all()


def test_an_open_cluster_of_thousands_agrees_with_a_tree_of_points(edges):
    """No lattice to make bins along: bins span the cluster."""
    from scipy.spatial import cKDTree

    positions = np.random.default_rng(1).uniform(-20, 20, (2000, 3)) * [1, 2, 0.3]
    record = CrystalRecord("m", np.ones(2000), positions, np.zeros((3, 3)), np.zeros(3, bool))
    found = edges(record, GraphSpec(cutoff=4.0))
    pairs = cKDTree(positions).query_pairs(4.0, output_type="ndarray")
    expected = sorted(map(tuple, np.concatenate([pairs, pairs[:, ::-1]]).tolist()))
    assert list(zip(found.target.tolist(), found.source.tolist(), strict=True)) == expected
    assert not found.shifts.any()


def test_a_dense_cluster_in_an_empty_box(edges, monkeypatch):
    """The number of edges is guessed from the volume first; here the guess is far too low."""
    positions = np.random.default_rng(0).uniform(0, 6, (600, 3))
    record = CrystalRecord("c", np.ones(600), positions, np.eye(3) * 200)
    found = plain_rows(edges(record, GraphSpec(cutoff=5.0)))
    monkeypatch.setattr(binned, "LARGE", 1000)
    assert np.array_equal(found, plain_rows(edges(record, GraphSpec(cutoff=5.0))))


def test_large_and_small_crystals_share_a_batch(crystals, monkeypatch):
    records = [crystals.triclinic(seed, atoms) for seed, atoms in [(1, 3), (2, 20), (3, 1), (4, 9)]]
    arrays = (
        np.concatenate([r.positions for r in records]),
        np.stack([r.cell for r in records]),
        np.stack([r.pbc for r in records]),
        np.cumsum([0, *(r.num_atoms for r in records)]),
    )
    spec = GraphSpec(cutoff=6.0, reverse=True)
    expected = build_edges(spec, *arrays)
    monkeypatch.setattr(binned, "LARGE", 9)
    found = build_edges(spec, *arrays)
    assert np.array_equal(plain_rows(found), plain_rows(expected))
    assert found.edge_offsets.tolist() == expected.edge_offsets.tolist()
    assert found.reverse.tolist() == expected.reverse.tolist()
    counted = count_neighbors(*arrays, [6.0, 3.0])
    assert counted[:, 0].tolist() == np.diff(expected.edge_offsets).tolist()


@pytest.mark.parametrize(
    ("cell", "position", "reason"),
    [
        (np.eye(3) * 0.01, 0.0, "check the units of the cell"),
        (np.array([[4.0, 0, 0], [0, 4, 0], [4, 4, 0]]), 0.0, "check the units of the cell"),
        (np.eye(3) * 4, 1e10, "check its coordinates"),
    ],
)
def test_what_cannot_be_searched_is_refused_by_name(always_bins, cell, position, reason):
    cells = np.stack([np.eye(3) * 5, cell])
    positions = np.array([[0.0, 0, 0], [position, 0, 0]])
    arguments = (GraphSpec(), positions, cells, np.ones((2, 3), bool), np.array([0, 1, 2]))
    with pytest.raises(RecordError, match=f"record crystal 1 of the batch: .*{reason}"):
        build_edges(*arguments)
    with pytest.raises(RecordError, match=f"record 'bad': .*{reason}"):
        build_edges(*arguments, names=["good", "bad"])
