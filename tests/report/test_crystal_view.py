"""The view of a crystal: true lengths, each bond once, nothing but the strongest edges."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from epitaxy.graph.collate import collate
from epitaxy.graph.record import CrystalRecord
from epitaxy.graph.spec import GraphSpec
from epitaxy.predict.explain import EdgeWeights
from epitaxy.report.crystal_view import strongest, view


def weighed(record: CrystalRecord, cutoff: float = 4.5) -> EdgeWeights:
    """Every edge within ``cutoff`` with a weight that falls with its length."""
    spec = GraphSpec("radius", cutoff)
    batch = collate([record], [spec])
    graph, distances = batch.graph(spec), batch.distances(spec).double().numpy().round(5)
    parts = (graph.source, graph.target, graph.shifts)
    source, target, shifts = (part.numpy().astype(np.int64) for part in parts)
    return EdgeWeights(source, target, shifts, distances, 1 / distances[:, None])


def test_copper_has_twelve_neighbours(crystals: Any) -> None:
    seen = view(crystals.fcc(), weighed(crystals.fcc()))
    assert len(seen.bonds) == 12
    assert seen.inside.tolist() == [True] + [False] * 12
    assert (seen.atoms == 0).all()
    assert seen.outline.shape == (12, 2, 2)


def test_salt_has_six_bonds_at_each_ion(crystals: Any) -> None:
    record = crystals.rocksalt()
    seen = view(record, weighed(record, 3.0))
    ends = np.concatenate([seen.bonds[:, 0], seen.bonds[:, 1]])
    assert all((ends == atom).sum() == 6 for atom in range(8))
    kinds = record.numbers[seen.atoms[seen.bonds]]
    assert (kinds[:, 0] != kinds[:, 1]).all()


def test_equally_strong_edges_are_not_parted(crystals: Any) -> None:
    edges = weighed(crystals.perovskite())
    chosen = strongest(edges, 4)
    around = {atom: edges.distances[chosen & (edges.target == atom)] for atom in range(5)}
    assert around[0].round(2).tolist() == [2.83] * 12  # barium: all its oxygens
    assert around[1].round(2).tolist() == [2.0] * 6  # titanium: the octahedron
    assert sorted(around[2].round(2)) == [2.0] * 2 + [2.83] * 12  # oxygen: Ti, then Ba and O


def test_lengths_are_true_with_the_depth(crystals: Any) -> None:
    record = crystals.triclinic(4, 6)
    edges = weighed(record)
    seen = view(record, edges)
    ends = np.concatenate([seen.points, seen.depth[:, None]], axis=1)[seen.bonds]
    lengths = np.linalg.norm(ends[:, 0] - ends[:, 1], axis=1)
    np.testing.assert_allclose(lengths, 1 / seen.weights, atol=1e-4)


def test_atoms_outside_the_cell_are_brought_back(crystals: Any) -> None:
    record = crystals.perovskite()
    moved = (
        record.positions + np.array([[1, 0, 0], [0, -2, 0], [0, 0, 3], [1, 1, 1], [0, 0, 0]]) * 4
    )
    away = record.replace(positions=moved)
    expected, seen = view(record, weighed(record)), view(away, weighed(away))
    np.testing.assert_allclose(seen.points[:5], expected.points[:5], atol=1e-6)
    np.testing.assert_allclose(np.sort(seen.weights), np.sort(expected.weights), atol=1e-9)
    assert len(seen.bonds) == len(expected.bonds)


def test_a_bond_has_the_mean_of_both_directions() -> None:
    record = CrystalRecord("pair", np.array([1, 8]), np.eye(3)[:2], np.eye(3) * 20)
    edges = EdgeWeights(
        np.array([1, 0]), np.array([0, 1]), np.zeros((2, 3), np.int64),
        np.full(2, 2**0.5), np.array([[0.2, 0.4], [0.6, 0.8]]),
    )  # fmt: skip
    seen = view(record, edges)
    assert seen.bonds.tolist() == [[0, 1]]
    assert seen.weights.tolist() == [pytest.approx(0.5)]


def test_an_atom_with_itself_is_no_bond() -> None:
    record = CrystalRecord("one", np.array([1]), np.zeros((1, 3)), np.eye(3) * 20)
    zero = np.zeros(1, np.int64)
    edges = EdgeWeights(zero, zero, np.zeros((1, 3), np.int64), np.zeros(1), np.ones((1, 1)))
    assert len(view(record, edges).bonds) == 0


def test_molecules_have_no_cell() -> None:
    positions = np.array([[0.0, 0, 0], [0, 0, 0.97], [0, 0.94, -0.24]])
    water = CrystalRecord("water", np.array([8, 1, 1]), positions, np.zeros((3, 3)), np.zeros(3))
    seen = view(water, None)
    assert seen.axis in "xyz"
    assert len(seen.outline) == len(seen.bonds) == 0
    apart = np.linalg.norm(seen.points[1:] - seen.points[0], axis=1)
    assert (apart > 0.5).all()  # no atom hides behind another


def test_the_same_crystal_is_seen_from_the_same_side(crystals: Any) -> None:
    record = crystals.triclinic(7, 5)
    one, other = view(record, weighed(record)), view(record, weighed(record))
    np.testing.assert_array_equal(one.points, other.points)
